"""From a caller's bytes to an entry in the leader's log, and from the applied entry back to the caller.

A proposal waits here until its own replica applies it: the answer is never taken from a message, only from the state machine, by request
id. Until its deadline it is sent again, under the same id, to whoever leads. What is known when the deadline
comes decides the error: never out of this process means certainly not done, anything else means unknown.
"""

from collections import OrderedDict
from collections.abc import Callable

from msgspec import Struct

from raft.contract import RaftConfig, Reply
from raft.engine import Engine
from raft.errors import Discarded, LogError, NoLeader, OutcomeUnknown, QueueFull, TooLarge
from raft.guard import Guard
from raft.messages import FIRST_NUMBERS, MAX_BATCH_BYTES, Proposed, Refused, Submit, encode_batch
from raft.replies import Replies

Done = Callable[[Reply | LogError], None]
_SEND_AGAIN_S = 0.5
_CHECK_S = 0.05
_MAX_ROUNDS = 4096


class _Proposal(Struct, eq=False):
    request_id: bytes
    entry: bytes
    waiters: list[tuple[float, Done]] = []
    rounds: tuple[int, ...] = ()
    """Messages that carried it to another member and were not refused."""
    appended: bool = False
    refused: bool = False
    seen: int | None = None
    sent_at: float = 0.0


class Proposals:
    """The proposals of one replica and, on the leader, those the others sent."""

    def __init__(self, config: RaftConfig, guard: Guard, replies: Replies) -> None:
        self._config = config
        self._guard = guard
        self._replies = replies
        self._dedupe = guard.on("dedupe")
        self._pending: dict[bytes, _Proposal] = {}
        self._queue: list[_Proposal] = []
        self._foreign: list[tuple[str, Submit]] = []
        self._in_log: set[bytes] = set()
        self._log_term = -1
        self._target: tuple[str, int] | None = None
        self._round = guard.random.randrange(FIRST_NUMBERS)
        self._rounds: OrderedDict[int, list[bytes]] = OrderedDict()
        self._checked_at = 0.0
        self._sent = 0
        self._resolved: list[tuple[Done, Reply | LogError]] = []
        self.paused = False
        """Leadership is being handed over: nothing more enters the log."""

    @property
    def _window(self) -> int:
        """Proposals of one replica in logs or on the way: all replicas' together must fit into the table of replies."""
        return max(1, self._config.max_replies // (2 * max(1, len(self._guard.membership.seats))))

    # -- in --------------------------------------------------------------------------------------------------------

    def submit(self, entry: bytes, request_id: bytes, deadline: float, done: Done) -> None:
        if len(entry) > self._config.max_entry_bytes:
            done(TooLarge(f"entry of {len(entry)} bytes; the limit is {self._config.max_entry_bytes}"))
            return
        known = self._replies.find(request_id) if self._dedupe else None
        if known is not None:
            done(known)
            return
        proposal = self._pending.get(request_id)
        if proposal is None:
            if len(self._pending) >= self._config.max_waiting:
                done(QueueFull(f"{self._config.max_waiting} proposals wait on this server"))
                return
            proposal = self._pending[request_id] = _Proposal(request_id, entry)
            self._queue.append(proposal)
        proposal.waiters.append((deadline, done))

    def on_submit(self, peer: str, message: Submit) -> None:
        self._foreign.append((peer, message))

    def on_refused(self, peer: str, message: Refused) -> None:
        for request_id in self._rounds.pop(message.round, ()):
            proposal = self._pending.get(request_id)
            if proposal is not None:
                proposal.rounds = tuple(round for round in proposal.rounds if round != message.round)
                proposal.refused = True

    # -- onwards ---------------------------------------------------------------------------------------------------

    @property
    def pending(self) -> bool:
        return bool(self._pending)

    def step(self, now: float) -> None:
        """Append on the leader, send to it elsewhere; let go of what is over its deadline."""
        engine = self._guard.engine
        if self._pending and now - self._checked_at >= _CHECK_S:
            self._check(now)
        if not engine.is_leader:
            for peer, message in self._foreign:
                self._guard.emit(peer, Refused(round=message.round))
            self._foreign.clear()
            if self._queue or self._pending:
                self._send(engine, now)
        elif not self.paused:
            if engine.term != self._log_term:
                self._log_term, self._in_log = engine.term, set()
                self._start_over()
            if self._queue or self._foreign:
                self._append(engine, now)

    def _start_over(self) -> None:
        """There is a new leader: everything still waiting goes to it."""
        self._queue = list(self._pending.values())
        self._sent = 0

    def _take(self, now: float, *, to_append: bool) -> list[Proposed]:
        """The next own proposals, as many as the window admits."""
        room = self._window - self._sent
        taken, self._queue = self._queue[: max(0, room)], self._queue[max(0, room) :]
        items: list[Proposed] = []
        for proposal in taken:
            if proposal.waiters:
                if proposal.seen is None:
                    proposal.seen = self._replies.applied
                proposal.sent_at = now
                proposal.appended |= to_append
                self._sent += 1
                items.append((proposal.request_id, proposal.entry, proposal.seen))
        return items

    def _append(self, engine: Engine, now: float) -> None:
        items = self._take(now, to_append=True) + [item for _, message in self._foreign for item in message.proposals]
        if self._dedupe:
            in_log, find = self._in_log, self._replies.find
            items = [item for item in items if item[0] not in in_log and find(item[0]) is None]
        for batch in _batches(items):
            engine.append(encode_batch(batch))
            self._in_log.update(item[0] for item in batch)
        for peer, _ in self._foreign:
            if peer in self._guard.peers:
                self._guard.peers[peer].awaits = engine.last_index
        self._foreign.clear()

    def _send(self, engine: Engine, now: float) -> None:
        leader = engine.leader
        if leader is None or leader not in self._guard.peers or not self._guard.peers[leader].connected:
            return
        if self._target != (leader, engine.term):
            self._target = (leader, engine.term)
            self._start_over()
        for batch in _batches(self._take(now, to_append=False)):
            self._round += 1
            ids = self._rounds[self._round] = [item[0] for item in batch]
            for request_id in ids:
                self._pending[request_id].rounds += (self._round,)
            if len(self._rounds) > _MAX_ROUNDS:
                self._rounds.popitem(last=False)
            self._guard.emit(leader, Submit(round=self._round, proposals=batch))

    def _check(self, now: float) -> None:
        self._checked_at = now
        over: list[_Proposal] = []
        queued = {proposal.request_id for proposal in self._queue}
        for proposal in self._pending.values():
            late = [done for deadline, done in proposal.waiters if deadline <= now]
            if late:
                proposal.waiters = [waiter for waiter in proposal.waiters if waiter[0] > now]
                error = _what_is_known(proposal)
                self._resolved += [(done, error) for done in late]
            if not proposal.waiters:
                over.append(proposal)
            elif proposal.sent_at and now - proposal.sent_at > _SEND_AGAIN_S and proposal.request_id not in queued:
                self._sent -= 1
                self._queue.append(proposal)
        for proposal in over:
            del self._pending[proposal.request_id]
            if proposal.sent_at and proposal.request_id not in queued:
                self._sent -= 1
        self._sent = max(0, self._sent)

    # -- out -------------------------------------------------------------------------------------------------------

    def applied(self, request_id: bytes, outcome: Reply | LogError) -> None:
        """The state machine answered `request_id`; told to the caller by `flush`."""
        self._in_log.discard(request_id)
        proposal = self._pending.pop(request_id, None)
        if proposal is not None:
            self._sent = max(0, self._sent - 1)
            for _, done in proposal.waiters:
                self._resolved.append((done, outcome))
            proposal.waiters = []

    def restored(self) -> None:
        """The state came as a snapshot: some of what waits may be in it."""
        for request_id in list(self._pending):
            reply = self._replies.find(request_id)
            if reply is not None:
                self.applied(request_id, reply)

    def flush(self) -> None:
        """Tell the callers; called once what they depend on is on disk."""
        resolved, self._resolved = self._resolved, []
        for done, outcome in resolved:
            done(outcome)

    def fail_all(self, error: LogError) -> None:
        self._resolved += [(done, error) for proposal in self._pending.values() for _, done in proposal.waiters]
        self._pending.clear()
        self._queue.clear()
        self.flush()


def _what_is_known(proposal: _Proposal) -> LogError:
    if proposal.appended or proposal.rounds:
        return OutcomeUnknown("not applied here by the deadline; it may still be")
    if proposal.waiters:
        return OutcomeUnknown("somebody else proposed under the same id and still waits; it may be applied for them")
    if proposal.refused:
        return Discarded("the server it was sent to was not leader any more")
    return NoLeader("no leader was known until the deadline; nothing was sent")


def _batches(items: list[Proposed]) -> list[list[Proposed]]:
    """Split by size: an entry of the log and a frame stay far below their limits."""
    batches: list[list[Proposed]] = []
    batch: list[Proposed] = []
    size = 0
    for item in items:
        cost = len(item[0]) + len(item[1]) + 16
        size += cost
        if size > MAX_BATCH_BYTES or not batches:
            batch, size = [], cost
            batches.append(batch)
        batch.append(item)
    return batches
