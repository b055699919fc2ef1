"""The cluster's state on this server: writes go through the log, reads come from the tables, changes go to the feed.

Log, state machine and API share one event loop, so a reader between two awaits sees one index and nothing half done.
"""

import hashlib
import logging
from collections.abc import Callable

from kago.clock import Clock
from kago.core.state.changes import Change, Thing
from kago.core.state.commands import AnyCommand, ClaimLeadership, RaiseSchema
from kago.core.state.machine import Machine, TooNew, decode_reply, encode_entry
from kago.core.state.rejections import Refusal, Rejection, Reply
from kago.core.state.tables import Tables
from kago.server.feed import Encodings, Feed, encode
from raft.contract import LogStatus, ReplicatedLog
from raft.errors import LogHalted

_logger = logging.getLogger(__name__)
WRITE_TIMEOUT_S = 2.0
"""A write waits this long for a leader and a majority."""
READ_TIMEOUT_S = 2.0
RECENT_S = 0.01

Listener = Callable[[int, tuple[Change, ...]], None]


class _Machine(Machine):
    """Halts the log in words, not as a bug, where the log asks too much of this version."""

    def apply(self, index: int, entry: bytes) -> bytes:
        try:
            return super().apply(index, entry)
        except TooNew as error:
            raise LogHalted(str(error)) from error


class Store:
    """`open` gives it its log, once the log has been opened over `machine`."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.machine: Machine = _Machine()
        self.encodings = Encodings()
        self.feed = Feed(self.encodings)
        self.listeners: list[Listener] = []
        """Called after each applied entry, before anybody is answered."""
        self.restore_listeners: list[Callable[[], None]] = []
        self.machine.on_changes = self._changed
        self.machine.on_restored = self._restored
        self._log: ReplicatedLog | None = None
        self._recent: tuple[float, LogStatus] | None = None

    def open(self, log: ReplicatedLog) -> None:
        self._log = log
        log.require_level(self.tables.cluster.schema_version)

    async def close(self) -> None:
        """Idempotent; also where it was never opened."""
        if self._log is not None:
            await self._log.close()

    @property
    def log(self) -> ReplicatedLog:
        assert self._log is not None, "the store is used before its log is open"
        return self._log

    @property
    def tables(self) -> Tables:
        """As of now; read only."""
        return self.machine.tables

    def encoded(self, thing: Thing) -> bytes:
        """Its JSON; kept for the next who asks if it is still as it stands in the tables."""
        return self.encodings.of(thing) if self.tables.holds(thing) else encode(thing)

    def status(self) -> LogStatus:
        return self.log.status()

    def recent_status(self) -> LogStatus:
        """As it was RECENT_S ago at most: what every answer asks for need not be worked out for every answer."""
        now = self.clock.monotonic()
        if self._recent is None or now >= self._recent[0]:
            self._recent = (now + RECENT_S, self.log.status())
        return self._recent[1]

    async def submit(
        self,
        command: AnyCommand,
        *,
        request_id: bytes | None = None,
        fingerprint: str = "",
        timeout_s: float = WRITE_TIMEOUT_S,
        actor: str = "",
        source: str = "",
    ) -> Reply:
        """Commit `command` and apply it here; the state machine's answer. Raises LogError.

        What some server would not understand yet is not proposed."""
        if self.too_new(command) is not None:
            # Perhaps only this server lags behind: all of them may understand it by now.
            await self.catch_up(stale=False, min_index=None)
        refusal = self.too_new(command)
        if refusal is not None:
            return refusal
        entry = encode_entry(command, self.clock.now(), fingerprint, actor=actor, source=source)
        answer = await self.log.propose(entry, request_id=request_id, timeout_s=timeout_s)
        return decode_reply(answer.result)

    def too_new(self, command: AnyCommand) -> Rejection | None:
        """Why `command` may not be proposed yet: some server would not understand it."""
        needed, schema = command.needs(), self.tables.cluster.schema_version
        if needed <= schema or isinstance(command, ClaimLeadership | RaiseSchema):
            return None
        old = [f"{server.id} ({server.release})" for server in self.tables.servers.values() if server.schema < needed]
        who = f"; these run an older version: {', '.join(sorted(old))}" if old else ""
        detail = f"this needs schema {needed} and the cluster is at {schema}, until every server is upgraded and up{who}"
        return Rejection(refusal=Refusal.OLD_SCHEMA, detail=detail)

    async def catch_up(self, *, stale: bool, min_index: int | None) -> None:
        """Make the tables fit to be read: as they are, at least at an index, or linearizable. Raises LogError."""
        if min_index is not None:
            if min_index > self.tables.index:
                await self.log.wait_applied(min_index, timeout_s=READ_TIMEOUT_S)
        elif not stale:
            await self.log.barrier(timeout_s=READ_TIMEOUT_S)

    def _changed(self, index: int, changes: tuple[Change, ...]) -> None:
        self.feed.publish(index, changes)
        if self._log is not None:
            self._log.require_level(self.tables.cluster.schema_version)
        for listener in self.listeners:
            listener(index, changes)

    def _restored(self, index: int) -> None:
        _logger.info("caught up by a snapshot, at index %d", index)
        self.feed.restored(index)
        if self._log is not None:
            self._log.require_level(self.tables.cluster.schema_version)
        for listener in self.restore_listeners:
            listener()


def request_id(method: str, path: str, key: str) -> bytes:
    """The log's request id for an Idempotency-Key: the same on every server."""
    return hashlib.blake2b(f"{method}\0{path}\0{key}".encode(), digest_size=32).digest()
