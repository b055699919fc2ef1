"""What only the leader does: claim its epoch, then one round after the other, each decided on what the last one led to.

A stint begins when the log says that we lead and ends when it says otherwise, or when the state says that somebody else's epoch is current.
Losing a stint costs nothing: everything it wanted is in the log or will be decided anew by the next leader.
"""

import asyncio
import logging
import uuid

import msgspec
from msgspec import msgpack

from kago.clock import Clock
from kago.config import ServeConfig
from kago.core.model.node import Node, NodeStatus
from kago.core.reconcile import Reconciler
from kago.core.state.changes import Change, Put
from kago.core.state.commands import SCHEMA_VERSION, AnyCommand, ClaimLeadership, RaiseSchema, RemoveServer
from kago.core.state.rejections import Refusal, Rejection
from kago.server.leases import Leases
from kago.server.store import Store
from raft.contract import LogStatus, Role
from raft.errors import LogError, LogHalted

_logger = logging.getLogger(__name__)
TICK_S = 0.25
"""The longest sleep between two looks at the leases, so that a pause of our own is noticed."""
ALONE_S = 0.5
"""A server that has not answered for this long is away; servers answer several times as often. One that is heard but does not hear us
counts as away, too: agents leave it, and most of what it was told reaches nobody who leads."""
IDLE_S = 0.1
"""Pause after a round whose commands all changed nothing."""
BEATS_EVERY_S = 0.1
"""A follower passes the heartbeats it hears on in one message this often."""
_Beat = tuple[str, int, bool]
_beats_decoder: msgpack.Decoder[list[_Beat]] = msgpack.Decoder(list[_Beat])


class Leader:
    """Runs on every server; acts on the one that leads. `run` ends only by cancellation or a bug."""

    def __init__(self, config: ServeConfig, store: Store, clock: Clock) -> None:
        self.leases = Leases(lease_s=config.node_lease_s, heartbeat_s=config.heartbeat_s)
        self._me = config.me
        self._store = store
        self._clock = clock
        self._reconciler = Reconciler(strategy=config.scheduler, node_gc_s=config.node_gc_s)
        self._down: dict[str, None] = {}
        self._leading = False
        self._wake = asyncio.Event()
        self._beats: dict[str, _Beat] = {}
        self._beats_due: asyncio.TimerHandle | None = None
        store.listeners.append(self._applied)
        store.restore_listeners.append(self._restored)

    # -- heartbeats ------------------------------------------------------------------------------------------------

    def heard(self, name: str, incarnation: int, *, leaving: bool) -> None:
        """A heartbeat reached this server: renew the lease, or let the leader renew it."""
        if self._leading:
            self._renew(name, incarnation, leaving)
            return
        self._beats[name] = (name, incarnation, leaving)
        if self._beats_due is None:
            self._beats_due = asyncio.get_running_loop().call_later(0.0 if leaving else BEATS_EVERY_S, self._pass_on)

    def misses(self, name: str) -> bool:
        """Whether we lead and have not heard a node for so long that its agent is gone, though its lease may run on."""
        return self._leading and self.leases.misses(name, self._clock.monotonic())

    def told(self, sender: str, payload: bytes) -> None:
        """Heartbeats that another server passed on."""
        if not self._leading:
            return
        try:
            beats = _beats_decoder.decode(payload)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            _logger.warning("%s passed on heartbeats that cannot be read (another version?): %s", sender, error)
            return
        for beat in beats:
            self._renew(*beat)

    def _pass_on(self) -> None:
        self._beats_due = None
        beats, self._beats = list(self._beats.values()), {}
        if self._leading:
            for beat in beats:
                self._renew(*beat)
        elif not self._store.log.tell_leader(msgpack.encode(beats)):
            _logger.debug("%d heartbeats could not be passed on: no leader", len(beats))

    def _renew(self, name: str, incarnation: int, leaving: bool) -> None:
        node = self._store.tables.nodes.get(name)
        if node is None or node.incarnation != incarnation:
            return
        if self.leases.heard(name, incarnation, self._clock.monotonic(), leaving=leaving):
            self._wake.set()

    # -- news ------------------------------------------------------------------------------------------------------

    def role_changed(self, status: LogStatus) -> None:
        self._wake.set()

    def _applied(self, index: int, changes: tuple[Change, ...]) -> None:
        if not self._leading or not changes:
            return
        self._reconciler.observe(changes)
        for change in changes:
            thing = change.after if isinstance(change, Put) else change.before
            if isinstance(thing, Node):
                self._observe_node(change, thing)
        self._wake.set()

    def _observe_node(self, change: Change, node: Node) -> None:
        if not isinstance(change, Put):
            self._down.pop(node.name, None)
            self.leases.forget(node.name)
            return
        if node.status is NodeStatus.READY:
            self._down.pop(node.name, None)
        else:
            self._down[node.name] = None
        before = change.before
        if not isinstance(before, Node) or before.incarnation != node.incarnation:
            self.leases.heard(node.name, node.incarnation, self._clock.monotonic())

    def _restored(self) -> None:
        if self._leading:
            self._take_stock()
            self._wake.set()

    def _take_stock(self) -> None:
        tables = self._store.tables
        self._reconciler.reset(tables)
        self._down = {node.name: None for node in tables.nodes.values() if node.status is not NodeStatus.READY}
        self.leases.gained(tables.nodes, self._clock.monotonic())

    # -- the stint -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        self._me = self._store.status().me
        while True:
            status = self._store.status()
            if status.role is not Role.LEADER:
                await self._sleep(None)
                continue
            try:
                await self._stint(status.term)
            except LogHalted:
                raise
            except LogError as error:
                _logger.warning("leading term %d was interrupted: %s", status.term, error)
                await asyncio.sleep(0.05)
            finally:
                self._leading = False
                self.leases.lost()

    async def _stint(self, term: int) -> None:
        born = 1 if self._store.tables.cluster.id else SCHEMA_VERSION
        claim = ClaimLeadership(server=self._me, term=term, cluster_id=str(uuid.uuid4()), schema=born)
        reply = await self._store.submit(claim)
        tables = self._store.tables
        if isinstance(reply, Rejection) and (tables.cluster.epoch, tables.cluster.leader) != (term, self._me):
            _logger.warning("cannot lead term %d: %s", term, reply.detail)
            await asyncio.sleep(0.2)
            return
        _logger.info("leading the cluster in epoch %d", term)
        self._leading = True
        self._take_stock()
        while self._leads(status := self._store.status(), term):
            now = self._clock.monotonic()
            self.leases.tick(now, alone=_is_alone(status))
            gone = self._gone_servers(status)
            if self._may_raise_schema(status) and await self._submit_all((RaiseSchema(epoch=term, schema=SCHEMA_VERSION),)) is None:
                return
            if gone and await self._submit_all(tuple(RemoveServer(epoch=term, id=id) for id in gone)) is None:
                return
            liveness = self.leases.liveness(sorted(self._down), now)
            due = self._reconciler.round(self._store.tables, liveness, now=self._clock.now(), monotonic=now)
            if due.commands:
                outcome = await self._submit_all(due.commands)
                if outcome is None:
                    return
                if not outcome:
                    # Nothing moved, so the same would be decided again at once: give what stands in the way a moment.
                    await asyncio.sleep(IDLE_S)
                continue
            wait = TICK_S if due.wake_at is None else min(TICK_S, max(0.0, due.wake_at - self._clock.monotonic()))
            await self._sleep(wait)

    def _may_raise_schema(self, status: LogStatus) -> bool:
        """Whether every member is here and has announced ours, so that what it brought may be used."""
        tables = self._store.tables
        if tables.cluster.schema_version >= SCHEMA_VERSION:
            return False
        servers = tables.servers
        return all(
            member.role != "down" and member.id in servers and servers[member.id].schema >= SCHEMA_VERSION
            for member in status.members
        )

    def _gone_servers(self, status: LogStatus) -> list[str]:
        """Those that announced themselves and are no members of the log any more."""
        members = {member.id for member in status.members}
        return sorted(self._store.tables.servers.keys() - members)

    def _leads(self, status: LogStatus, term: int) -> bool:
        cluster = self._store.tables.cluster
        return status.role is Role.LEADER and status.term == term and cluster.epoch == term and cluster.leader == self._me

    async def _submit_all(self, commands: tuple[AnyCommand, ...]) -> bool | None:
        """In order, in one go. Whether anything changed; None when our epoch is over."""
        moved = False
        replies = await asyncio.gather(*(self._store.submit(command) for command in commands), return_exceptions=True)
        for command, reply in zip(commands, replies, strict=True):
            if isinstance(reply, LogError) and not isinstance(reply, LogHalted):
                # What it was about is still marked and decided anew; the leases of nodes need not suffer for it.
                _logger.warning("%s of the leader was not done: %s", type(command).__name__, reply)
            elif isinstance(reply, BaseException):
                raise reply
            elif isinstance(reply, Rejection):
                if reply.refusal is Refusal.STALE_EPOCH:
                    _logger.info("epoch is over: %s", reply.detail)
                    return None
                _logger.debug("%s was refused: %s", type(command).__name__, reply.detail)
            else:
                moved = moved or reply.changed
        return moved

    async def _sleep(self, seconds: float | None) -> None:
        """Until something happened, at most `seconds`."""
        handle = None if seconds is None else asyncio.get_running_loop().call_later(seconds, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            if handle is not None:
                handle.cancel()
        await asyncio.sleep(0)  # Whoever waits for what woke this is answered first.
        self._wake.clear()


def _is_alone(status: LogStatus) -> bool:
    """Whether fewer servers than a majority answered just now, ourselves among them."""
    voters = [member for member in status.members if member.voter]
    near = sum(member.answer_age_s is not None and member.answer_age_s < ALONE_S for member in voters)
    return 2 * near <= len(voters)
