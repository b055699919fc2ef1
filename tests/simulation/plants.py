"""Bugs planted from outside, each for the length of a run: what the simulation must find, or it would not find their like.

Each is a mistake somebody could make, or had made before the simulation found it. Production code has no switch for any of them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from types import ModuleType
from typing import Any

from msgspec import Struct, structs

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
from kago.core.model.report import Heartbeat, PodReport, WatchEvent
from kago.core.state import commands as c
from kago.core.state import machine as state_machine
from kago.core.state.handlers import nodes as node_handlers
from kago.core.state.handlers import pods as pod_handlers
from kago.core.state.handlers import reports as report_handlers
from kago.core.state.handlers.draft import Draft
from kago.core.state.rejections import Accepted, Reply
from kago.core.state.snapshot import Snapshot
from kago.server.feed import Feed, Subscription
from kago.server.leader import Leader
from kago.server.leases import Leases, _Lease
from kago.server.routes import nodes as node_routes
from kago.server.routes import writes
from kago.server.store import Store
from raft import journal
from raft.applier import Applier
from raft.journal import Journal
from raft.member import Member
from tests.simulation.cluster.engine import Engine

_Planting = Callable[[], AbstractContextManager[None]]


class Plant(Struct, frozen=True, kw_only=True):
    what: str
    """The mistake, in words."""
    profile: str
    """Where to look for it."""
    plant: _Planting
    seed: int = 0
    """One that was seen to find it."""
    rare: bool = False
    """Only the hunt looks for it: after a change of the code it may take a hundred seeds to find it anew."""


def planted(name: str) -> AbstractContextManager[None]:
    """The bug of that name; none for the empty one."""
    _count.calls = 0
    return PLANTS[name].plant() if name else nullcontext()


class _Count:
    """Calls of what a plant put in another's place; from nothing at each run, so that a run is the same each time."""

    calls = 0

    def next(self) -> int:
        self.calls += 1
        return self.calls


_count = _Count()


def _patch(holder: type | ModuleType, **attributes: object) -> _Planting:
    @contextmanager
    def patched() -> Iterator[None]:
        kept = {name: vars(holder)[name] for name in attributes}
        for name, value in attributes.items():
            setattr(holder, name, value)
        try:
            yield
        finally:
            for name, value in kept.items():
                setattr(holder, name, value)

    return patched


def _all(*plantings: _Planting) -> _Planting:
    @contextmanager
    def together() -> Iterator[None]:
        with ExitStack() as stack:
            for planting in plantings:
                stack.enter_context(planting())
            yield

    return together


# -- the log ---------------------------------------------------------------------------------------------------------


def _flush_before_sync(self: Member) -> None:
    self.work()
    self.flush()
    if self.dirty:
        self.sync_or_halt()


def _remember_vote_only(self: Journal, term: int, vote: str | None) -> None:
    self._term, self._vote = term, vote


def _restore_without_replies(self: Applier, chunks: Iterable[bytes]) -> None:
    rest = iter(chunks)
    self._replies.restore(rest)
    self._replies._replies.clear()
    self._machine.restore(self._replies.applied, rest)
    self._proposals.restored()


# -- the state -------------------------------------------------------------------------------------------------------

_make_snapshot = Snapshot.__init__
_decide = state_machine.decide


def _snapshot_without_last(self: Snapshot, tables: Any, digest: bytes) -> None:
    _make_snapshot(self, tables, digest)
    if self._things["Pod"]:
        self._things["Pod"].pop()
        self._header = structs.replace(self._header, things=self._header.things - 1)


def _bind_again(draft: Draft, command: c.MarkNodes) -> Reply:
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


def _any_life(draft: Draft, report: c.NodeReport) -> Any:
    node = draft.node(report.node_name)
    return node if node is not None and node.id == report.node_id else _sender(draft, report)


_sender = report_handlers._sender


async def _take_any_life(store: Store, leader: Leader, name: str, beat: Heartbeat) -> None:
    node = store.tables.nodes.get(name)
    if not isinstance(node, Node) or node.id != beat.node_id:
        await _take(store, leader, name, beat)
    leader.heard(name, beat.incarnation, leaving=beat.leaving)


_take = node_routes._take


async def _take_deaf(store: Store, leader: Leader, name: str, beat: Heartbeat) -> None:
    node = store.tables.nodes.get(name)
    if node is None or (node.id, node.incarnation) != (beat.node_id, beat.incarnation):
        await _take(store, leader, name, beat)
    leader.heard(name, beat.incarnation, leaving=beat.leaving)


def _by_local_clock(tables: Any, command: Any, *, at: float, index: int) -> Any:
    return _decide(tables, command, at=at + 1e-3 * (_count.next() % 3), index=index)


# -- the servers -----------------------------------------------------------------------------------------------------


async def _read_at_once(self: Store, *, stale: bool, min_index: int | None) -> None:
    return


def _no_grace(self: Leases, names: Iterable[str], now: float) -> None:
    self.lost()
    self._leases = {name: _Lease(now - self._lease_s + 0.3) for name in names}
    self._ticked_at = now
    for name, lease in self._leases.items():
        self._look_again(name, lease, now + 0.3)


def _own_key(method: str, path: str, key: str) -> bytes:
    return b"%032d" % _count.next()


_subscribe = Feed.subscribe


def _from_now_on(self: Feed, topic: str, wanted: Any, *, after: int | None = None) -> Subscription:
    return _subscribe(self, topic, wanted)


def _tick_nothing(self: Leases, now: float) -> None:
    self._ticked_at = now


# -- the agents and the client ---------------------------------------------------------------------------------------

_report = agent_report._report
_look_at = Worker._look_at
_call = Walker.call
_watch = Client.watch


async def _believe(self: Masters, view: dict[str, Pod], event: WatchEvent) -> None:
    self._worker.take_over(view, index=event.index, epoch=event.epoch)


def _watch_stale(self: Client, path: str, params: Mapping[str, str], **more: Any) -> Any:
    return _watch(self, path, {name: value for name, value in params.items() if name != "min_index"} | {"stale": "true"}, **more)


def _end_is_gone(pod: Pod, observed: Observed | None, record: Record, work: Work | None, offered: bool) -> PodReport:
    said = _report(pod, observed, record, work, offered)
    ended = observed is not None and not observed.running
    return structs.replace(said, status=PodStatus.TERMINATED) if ended else said


def _told_is_gone(pod: Pod, observed: Observed | None, record: Record, work: Work | None, offered: bool) -> PodReport:
    said = _report(pod, observed, record, work, offered)
    return structs.replace(said, status=PodStatus.TERMINATED) if pod.desired is Desired.STOPPED else said


async def _silence_is_empty(self: Worker, runtime: Any) -> None:
    try:
        self._observed[runtime.kind] = await runtime.list()
    except EngineUnavailable:
        self._observed[runtime.kind] = ()


async def _blind_at_first(self: Worker, runtime: Any) -> None:
    """The first look after a start sees nothing: what ran before is not known to be ours."""
    if runtime.kind not in self._observed:
        self._observed[runtime.kind] = ()
        self.wake()
    else:
        await _look_at(self, runtime)


def _always_new(self: Engine, pod: Pod) -> None:
    known = {ref: one for ref, one in self.containers.items() if one.pod_id == pod.id}
    for ref in known:
        del self.containers[ref]
    _engine_run(self, pod)
    self.containers.update(known)


_engine_run = Engine.run


async def _call_without_key(self: Walker, method: str, path: str, **more: Any) -> Any:
    headers = {name: value for name, value in (more.pop("headers", None) or {}).items() if name != "idempotency-key"}
    return await _call(self, method, path, headers=headers, **more)


PLANTS: dict[str, Plant] = {
    "early-ack": Plant(
        what="messages and answers leave before the sync they rest on",
        profile="power",
        plant=_patch(Member, step=_flush_before_sync),
        seed=2,
    ),
    "vote-not-kept": Plant(
        what="term and vote are not written to the journal",
        profile="power",
        plant=_patch(Journal, setCurrentTerm=_remember_vote_only),
        rare=True,
    ),
    "torn-accepted": Plant(
        what="records of the journal are not checked against their checksum",
        profile="disk",
        plant=_patch(journal, _checksum=lambda payload, offset: 0),
    ),
    "replies-lost": Plant(
        what="the table of replies does not survive a snapshot",
        profile="kill",
        plant=_patch(Applier, restore=_restore_without_replies),
    ),
    "snapshot-tail": Plant(
        what="a snapshot lacks its last pod",
        profile="cluster-servers",
        plant=_patch(Snapshot, __init__=_snapshot_without_last),
    ),
    "local-clock": Plant(
        what="a handler asks its own clock",
        profile="cluster-calm",
        plant=_patch(state_machine, decide=_by_local_clock),
    ),
    "old-epoch": Plant(
        what="commands of a deposed leader are obeyed",
        profile="cluster-leaders",
        plant=_patch(state_machine, _FENCED=()),
        seed=11,
    ),
    "bound-twice": Plant(
        what="the pods of a lost node are bound again instead of replaced",
        profile="cluster-nodes",
        plant=_patch(state_machine, _HANDLERS=state_machine._HANDLERS | {c.MarkNodes: _bind_again}),
    ),
    "past-life": Plant(
        what="a late report of an agent's past life is believed",
        profile="cluster-nodes",
        plant=_all(_patch(report_handlers, _sender=_any_life), _patch(node_routes, _take=_take_any_life)),
        rare=True,
    ),
    "stale-stop": Plant(
        what="a decision to stop a surplus pod is not checked again",
        profile="cluster-net",
        plant=_patch(pod_handlers, _stale_stop=lambda draft, command: None),
    ),
    "stale-read": Plant(
        what="a read is answered without asking whether the leader still leads",
        profile="cluster-net",
        plant=_patch(Store, catch_up=_read_at_once),
    ),
    "no-grace": Plant(
        what="a new leader counts the silence before its time",
        profile="cluster-servers",
        plant=_patch(Leases, gained=_no_grace),
    ),
    "key-forgotten": Plant(
        what="an Idempotency-Key is forgotten",
        profile="cluster",
        plant=_patch(writes, request_id=_own_key),
    ),
    "missed-event": Plant(
        what="a watch that resumes begins with what happens from now on",
        profile="cluster-net",
        plant=_patch(Feed, subscribe=_from_now_on),
    ),
    "deaf-follower": Plant(
        what="a server that does not hear the leader goes on taking heartbeats",
        profile="cluster-net",
        plant=_patch(node_routes, _take=_take_deaf),
    ),
    "stale-view": Plant(
        what="an agent believes whatever view a master has",
        profile="cluster-views",
        plant=_all(_patch(Masters, _take_over=_believe), _patch(Client, watch=_watch_stale)),
    ),
    "end-is-gone": Plant(
        what="a container that ended counts as a pod that is gone",
        profile="cluster-nodes",
        plant=_patch(agent_report, _report=_end_is_gone),
    ),
    "told-is-gone": Plant(
        what="a pod told to stop is called gone before its container is",
        profile="cluster-calm",
        plant=_patch(agent_report, _report=_told_is_gone),
    ),
    "silent-engine": Plant(
        what="an engine that gives no answer is taken for an empty one",
        profile="cluster-nodes",
        plant=_patch(Worker, _look_at=_silence_is_empty),
    ),
    "started-twice": Plant(
        what="an agent that was restarted starts its pods again beside what runs",
        profile="cluster-nodes",
        plant=_all(_patch(Worker, _look_at=_blind_at_first), _patch(Engine, run=_always_new)),
    ),
    "no-key": Plant(
        what="the client repeats writes without a key",
        profile="cluster-net",
        plant=_patch(Walker, call=_call_without_key),
    ),
}
