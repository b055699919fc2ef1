"""Reads that are never stale, without writing anything: ReadIndex.

The leader notes its commit index, makes sure by one round of heartbeats that it still leads, and everybody may answer from
their own state once they have applied that far. All reads waiting in a step share one round; followers ask the leader and serve locally.
"""

from collections.abc import Callable

from raft.errors import LogError, NoLeader
from raft.guard import Guard
from raft.messages import FIRST_NUMBERS, AskRead, ReadAt

ReadDone = Callable[[int | LogError], None]
"""Called once with the applied index (see `Reply.index`) or with why not."""
_ASK_AGAIN_S = 0.25


class Ticket:
    __slots__ = ("deadline", "done")

    def __init__(self, deadline: float, done: ReadDone) -> None:
        self.deadline = deadline
        self.done = done


class _Round:
    """One confirmation of leadership under way."""

    def __init__(self, term: int, index: int, wanted: dict[str, int], tickets: list[Ticket], askers: list[tuple[str, int]]) -> None:
        self.term, self.index, self.wanted, self.tickets, self.askers = term, index, wanted, tickets, askers


class Reads:
    """The reads of one replica and, on the leader, those of the others."""

    def __init__(self, guard: Guard, applied: Callable[[], int]) -> None:
        self._guard = guard
        self._applied = applied
        self._waiting: list[Ticket] = []
        self._askers: list[tuple[str, int]] = []
        self._confirming: _Round | None = None
        self._asked: dict[int, tuple[str, int, float, list[Ticket]]] = {}
        self._number = guard.random.randrange(FIRST_NUMBERS)
        self._confirmed: list[tuple[int, Ticket]] = []
        self._resolved: list[tuple[Ticket, int | LogError]] = []
        self.confirmed_term = 0
        """Term of the last confirmation a leader sent here."""

    def add(self, deadline: float, done: ReadDone) -> None:
        self._waiting.append(Ticket(deadline, done))

    @property
    def pending(self) -> bool:
        return bool(self._waiting or self._confirming or self._asked or self._confirmed)

    def step(self, now: float) -> bool:
        """Move everything on; True if the leader must send a round of heartbeats now."""
        engine = self._guard.engine
        heartbeat = False
        if not self._guard.on("readindex"):
            self._confirmed += [(0, ticket) for ticket in self._waiting]
            self._waiting = []
        if engine.is_leader:
            self._return_asked(lambda leader, term, at: True)
            heartbeat = self._lead()
        else:
            self._give_up_round()
            self._askers = []
            self._follow(now)
        self._collect(now)
        return heartbeat

    def _lead(self) -> bool:
        engine, guard = self._guard.engine, self._guard
        if self._confirming is not None and self._confirming.term != engine.term:
            self._give_up_round()
        self.check_echoes()
        if self._confirming is not None or not engine.leads_own_term or not (self._waiting or self._askers):
            return False
        wanted: dict[str, int] = {}
        for peer, state in guard.peers.items():
            wanted[peer], state.asks = state.out_seq + 1, True
        self._confirming = _Round(engine.term, engine.commit_index, wanted, self._waiting, self._askers)
        self._waiting, self._askers = [], []
        self.check_echoes()
        return self._confirming is not None

    def check_echoes(self) -> None:
        """Finish the round if a majority, this leader included, answered something sent after it began."""
        current, guard = self._confirming, self._guard
        if current is None or current.term != guard.engine.term:
            return
        echoes = {peer for peer, seq in current.wanted.items() if peer in guard.peers and guard.peers[peer].acked_seq >= seq}
        if guard.membership.is_majority(echoes | {guard.membership.me}):
            self._confirming = None
            self._confirmed += [(current.index, ticket) for ticket in current.tickets]
            for peer, number in current.askers:
                guard.emit(peer, ReadAt(round=number, index=current.index, term=current.term))

    def _give_up_round(self) -> None:
        if self._confirming is not None:
            self._waiting += self._confirming.tickets
            self._confirming = None

    def _follow(self, now: float) -> None:
        engine = self._guard.engine
        leader, term = engine.leader, engine.term
        self._return_asked(lambda asked, asked_term, at: asked != leader or asked_term != term or now - at > _ASK_AGAIN_S)
        if self._waiting and leader is not None and leader in self._guard.peers and self._guard.peers[leader].connected:
            self._number += 1
            self._asked[self._number] = (leader, term, now, self._waiting)
            self._waiting = []
            self._guard.emit(leader, AskRead(round=self._number))

    def _return_asked(self, lost: Callable[[str, int, float], bool]) -> None:
        for number, (leader, term, at, tickets) in list(self._asked.items()):
            if lost(leader, term, at):
                del self._asked[number]
                self._waiting += tickets

    def on_ask(self, peer: str, message: AskRead) -> None:
        if self._guard.engine.is_leader:
            self._askers.append((peer, message.round))

    def on_read_at(self, peer: str, message: ReadAt) -> None:
        asked = self._asked.get(message.round)
        if asked is not None and asked[0] == peer:
            del self._asked[message.round]
            self.confirmed_term = message.term
            self._confirmed += [(message.index, ticket) for ticket in asked[3]]

    def _collect(self, now: float) -> None:
        applied_index = self._guard.engine.applied_index
        if self._confirmed:
            ready = [ticket for index, ticket in self._confirmed if index <= applied_index]
            if ready:
                self._confirmed = [item for item in self._confirmed if item[0] > applied_index]
                applied = self._applied()
                self._resolved += [(ticket, applied) for ticket in ready]
        if self._waiting or self._asked or self._confirming or self._confirmed:
            self._expire(now)

    def _expire(self, now: float) -> None:
        lists = [self._waiting, *(asked[3] for asked in self._asked.values())]
        if self._confirming is not None:
            lists.append(self._confirming.tickets)
        for tickets in lists:
            late = [ticket for ticket in tickets if ticket.deadline <= now]
            if late:
                tickets[:] = [ticket for ticket in tickets if ticket.deadline > now]
                self._resolved += [(ticket, NoLeader("no leader confirmed in time that it still leads")) for ticket in late]
        late_confirmed = [ticket for _, ticket in self._confirmed if ticket.deadline <= now]
        if late_confirmed:
            self._confirmed = [item for item in self._confirmed if item[1].deadline > now]
            self._resolved += [(ticket, NoLeader("this server did not catch up in time")) for ticket in late_confirmed]

    def flush(self) -> None:
        """Tell the readers; called once what they depend on is on disk."""
        resolved, self._resolved = self._resolved, []
        for ticket, outcome in resolved:
            ticket.done(outcome)

    def fail_all(self, error: LogError) -> None:
        self._give_up_round()
        self._return_asked(lambda leader, term, at: True)
        self._resolved += [(ticket, error) for ticket in self._waiting] + [(ticket, error) for _, ticket in self._confirmed]
        self._waiting, self._confirmed = [], []
        self.flush()
