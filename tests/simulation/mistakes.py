"""What the planted bugs do: each what somebody could write in the place of something in the production code."""


import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import structs

from kago.agent import report as agent_report
from kago.agent.masters import Masters
from kago.agent.plan import Record
from kago.agent.report import Work
from kago.agent.runtime import EngineUnavailable, Observed
from kago.agent.worker import Worker
from kago.client.client import Client
from kago.client.walk import Walker
from kago.core.model.node import Node, NodeStatus
from kago.core.model.pod import Desired, Pod, PodStatus
from kago.core.model.report import Heartbeat, HeartbeatReply, PodReport, RegistrationReply, WatchEvent
from kago.core.state import commands as c
from kago.core.state import machine as state_machine
from kago.core.state.handlers import nodes as node_handlers
from kago.core.state.handlers import reports as report_handlers
from kago.core.state.handlers.draft import Draft
from kago.core.state.rejections import Accepted, Reply
from kago.core.state.snapshot import Snapshot
from kago.server.app import Server
from kago.server.feed import Feed, Subscription
from kago.server.leader import Leader
from kago.server.leases import Leases, _Lease
from kago.server.routes import nodes as node_routes
from kago.server.store import Store
from raft.applier import Applier
from raft.identity import REMOVED
from raft.journal import Journal
from raft.member import Member
from tests.simulation.cluster.engine import Engine
from tests.simulation.planting import count

# -- the log ---------------------------------------------------------------------------------------------------------


def flush_before_sync(self: Member) -> None:
    self.work()
    self.flush()
    if self.dirty:
        self.sync_or_halt()


def remember_vote_only(self: Journal, term: int, vote: str | None) -> None:
    self._term, self._vote = term, vote


def restore_without_replies(self: Applier, chunks: Iterable[bytes]) -> None:
    rest = iter(chunks)
    self._replies.restore(rest)
    self._replies._replies.clear()
    self._machine.restore(self._replies.applied, rest)
    self._proposals.restored()


# -- the state -------------------------------------------------------------------------------------------------------

_make_snapshot = Snapshot.__init__
_decide = state_machine.decide


def snapshot_without_last(self: Snapshot, tables: Any, digest: bytes) -> None:
    _make_snapshot(self, tables, digest)
    if self._things["Pod"]:
        self._things["Pod"].pop()
        self._header = structs.replace(self._header, things=self._header.things - 1)


def bind_again(draft: Draft, command: c.MarkNodes) -> Reply:
    """Its pods are not replaced but moved."""
    for verdict in command.verdicts:
        node = draft.node(verdict.name)
        if node is None or node.id != verdict.id or node.incarnation != verdict.incarnation:
            continue
        draft.put_node(node_handlers._marked(node, verdict, draft.at))
        if verdict.status is NodeStatus.UNKNOWN:
            for pod in draft.tables.pods_of_node(node.name):
                if pod.live:
                    draft.put_pod(structs.replace(pod, node_name=None, status=PodStatus.PENDING, ready=False))
    return Accepted(version=draft.index)


def any_life(draft: Draft, report: c.NodeReport) -> Any:
    node = draft.node(report.node_name)
    return node if node is not None and node.id == report.node_id else _sender(draft, report)


_sender = report_handlers._sender


async def take_any_life(store: Store, leader: Leader, name: str, beat: Heartbeat) -> None:
    node = store.tables.nodes.get(name)
    if not isinstance(node, Node) or node.id != beat.node_id:
        await _take(store, leader, name, beat)
    leader.heard(name, beat.incarnation, leaving=beat.leaving)


_take = node_routes._take


async def take_deaf(store: Store, leader: Leader, name: str, beat: Heartbeat) -> None:
    node = store.tables.nodes.get(name)
    if node is None or (node.id, node.incarnation) != (beat.node_id, beat.incarnation):
        await _take(store, leader, name, beat)
    leader.heard(name, beat.incarnation, leaving=beat.leaving)


def by_local_clock(tables: Any, command: Any, *, at: float, index: int) -> Any:
    return _decide(tables, command, at=at + 1e-3 * (count.next() % 3), index=index)


# -- the servers -----------------------------------------------------------------------------------------------------


async def read_at_once(self: Store, *, stale: bool, min_index: int | None) -> None:
    return


def no_grace(self: Leases, names: Iterable[str], now: float) -> None:
    self.lost()
    self._leases = {name: _Lease(now - self._lease_s + 0.3) for name in names}
    self._ticked_at = now
    for name, lease in self._leases.items():
        self._look_again(name, lease, now + 0.3)


def own_key(method: str, path: str, key: str) -> bytes:
    return b"%032d" % count.next()


_subscribe = Feed.subscribe


def from_now_on(self: Feed, topic: str, wanted: Any, *, after: int | None = None) -> Subscription:
    return _subscribe(self, topic, wanted)


def _tick_nothing(self: Leases, now: float) -> None:
    self._ticked_at = now


_hear_refusal = Member.handshake_refused


def mind_no_removal(self: Member, peer: str, reason: str) -> None:
    if not reason.startswith(REMOVED):
        _hear_refusal(self, peer, reason)


async def announce_once(self: Server) -> None:
    while not self.store.status().caught_up:
        await asyncio.sleep(0.1)
    if self.store.status().me not in self.store.tables.servers:
        await _announce(self)


_announce = Server._announce


# -- the agents and the client ---------------------------------------------------------------------------------------

_report = agent_report._report
_look_at = Worker._look_at
_call = Walker.call
_watch = Client.watch


def learn_nobody(self: Masters, reply: HeartbeatReply | RegistrationReply) -> None:
    _learn(self, structs.replace(reply, servers=()))


_learn = Masters._learn


async def believe(self: Masters, view: dict[str, Pod], event: WatchEvent) -> None:
    self._worker.take_over(view, index=event.index, epoch=event.epoch)


def watch_stale(self: Client, path: str, params: Mapping[str, str], **more: Any) -> Any:
    return _watch(self, path, {name: value for name, value in params.items() if name != "min_index"} | {"stale": "true"}, **more)


def end_is_gone(pod: Pod, observed: Observed | None, record: Record, work: Work | None, offered: bool) -> PodReport:
    said = _report(pod, observed, record, work, offered)
    ended = observed is not None and not observed.running
    return structs.replace(said, status=PodStatus.TERMINATED) if ended else said


def told_is_gone(pod: Pod, observed: Observed | None, record: Record, work: Work | None, offered: bool) -> PodReport:
    said = _report(pod, observed, record, work, offered)
    return structs.replace(said, status=PodStatus.TERMINATED) if pod.desired is Desired.STOPPED else said


async def note_later(self: Worker) -> bool:
    loop = asyncio.get_running_loop()
    loop.call_later(1.0, lambda: loop.run_in_executor(None, self._notebook.flush))
    return True


async def silence_is_empty(self: Worker, runtime: Any) -> None:
    try:
        self._observed[runtime.kind] = await runtime.list()
    except EngineUnavailable:
        self._observed[runtime.kind] = ()


async def blind_at_first(self: Worker, runtime: Any) -> None:
    """The first look after a start sees nothing: what ran before is not known to be ours."""
    if runtime.kind not in self._observed:
        self._observed[runtime.kind] = ()
        self.wake()
    else:
        await _look_at(self, runtime)


def always_new(self: Engine, pod: Pod) -> None:
    known = {ref: one for ref, one in self.containers.items() if one.pod_id == pod.id}
    for ref in known:
        del self.containers[ref]
    _engine_run(self, pod)
    self.containers.update(known)


_engine_run = Engine.run


async def call_without_key(self: Walker, method: str, path: str, **more: Any) -> Any:
    headers = {name: value for name, value in (more.pop("headers", None) or {}).items() if name != "idempotency-key"}
    return await _call(self, method, path, headers=headers, **more)
