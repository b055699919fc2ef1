"""What must never happen, and the books kept to notice it. None of this asks the code under test for its opinion of itself.

Everything is judged by two facts the state machines report (this entry applied at this index; this state restored at this index), by the
bytes on the simulated platters, and by what clients were told. With the index in every answer linearizability needs no search.
"""

from collections import Counter
from collections.abc import Callable

from msgspec import Struct

from .machine import result_of, token_of
from .world import World


class Attempt(Struct, kw_only=True):
    """One proposal of one operation at one replica. Attempts of one operation share the request id but not the token."""

    token: bytes
    at: str
    started: float
    deadline: float
    life: int
    """Which life of the process took it; a proposal of a dead process has no outcome, and needs none."""
    outcome: str = ""
    """"", done, not-done, unknown or halted."""


class Operation(Struct, kw_only=True):
    number: int
    request_id: bytes | None
    known_before: int
    """Highest index known to any client when the operation began."""
    attempts: list[Attempt] = []
    index: int = 0
    """Index acknowledged; 0 while there is none."""
    result: bytes = b""


class Books:
    """Observer of all state machines and clerk of all client answers."""

    def __init__(self, world: World, names: list[str], holds: Callable[[str, bytes], bool]) -> None:
        self._world = world
        self._names = names
        self._holds = holds
        """Whether a member that counts has `token` on its platter."""
        self.entries: dict[int, bytes] = {}
        self.digests: dict[int, bytes] = {0: b""}
        self.applied_at: dict[str, int] = {}
        """Per member: last index its present life applied or restored."""
        self.index_of: dict[bytes, int] = {}
        self.operations: list[Operation] = []
        self.known = 0
        """Highest index any client was told of, by a write or by a read."""
        self.outcomes: Counter[str] = Counter()
        self.gaps: list[float] = []
        """Seconds between one acknowledgement and the next."""
        self.is_majority: Callable[[frozenset[str]], bool] = lambda holders: 2 * len(holders) > len(self._names)
        self._last_ack = 0.0
        self.leaders: dict[int, str] = {}
        self.newest_term = 0
        self._shortfalls = 0

    # -- what the state machines report ---------------------------------------------------------------------------

    def life_began(self, name: str) -> None:
        self.applied_at[name] = 0

    def applied(self, name: str, index: int, entry: bytes, digest: bytes) -> None:
        last = self.applied_at.get(name, 0)
        if index != last + 1:
            self._world.violate("order", f"{name} applied {index} after {last}")
        self.applied_at[name] = index
        known = self.entries.get(index)
        if known is None:
            self._first(name, index, entry)
        elif known != entry:
            self._world.violate("agreement", f"{name} applied {token_of(entry)!r} at {index}, another replica {token_of(known)!r}")
        if self.digests.setdefault(index, digest) != digest:
            self._world.violate("digest", f"{name} differs at index {index}")

    def _first(self, name: str, index: int, entry: bytes) -> None:
        """The first apply anywhere: from here on it counts as committed, so it must be on a majority's platters already."""
        token = token_of(entry)
        self.entries[index] = entry
        twice = self.index_of.setdefault(token, index)
        if twice != index:
            self._world.violate("applied-twice", f"{token!r} at {twice} and at {index}")
        holders = [n for n in self._names if self._holds(n, token)]
        if not self.is_majority(frozenset(holders)):
            self._world.violate("commit-without-majority", f"{name} applied {token!r} at {index}; on the platters of {holders} only")
        self._world.log("first", name, index, token.decode())

    def restored(self, name: str, index: int, tokens: list[bytes], digest: bytes) -> None:
        last = self.applied_at.get(name, 0)
        if index < last:
            self._world.violate("time-travel", f"{name} went from {last} back to {index}")
        self.applied_at[name] = index
        if len(tokens) != index:
            self._world.violate("snapshot", f"{name} restored {len(tokens)} entries as index {index}")
        if self.digests.get(index) != digest:
            self._world.violate("digest", f"{name} restored a state at {index} that nobody ever had")
        self._world.log("restored", name, index)
        self._world.counts["restores"] += 1

    # -- what clients are told ------------------------------------------------------------------------------------

    def begin(self, request_id: bytes | None) -> Operation:
        operation = Operation(number=len(self.operations), request_id=request_id, known_before=self.known)
        self.operations.append(operation)
        return operation

    def attempt(self, operation: Operation, at: str, life: int, timeout_s: float) -> Attempt:
        token = b"w%d.%d" % (operation.number, len(operation.attempts))
        now = self._world.now
        attempt = Attempt(token=token, at=at, started=now, deadline=now + timeout_s, life=life)
        operation.attempts.append(attempt)
        return attempt

    def _settle(self, attempt: Attempt, outcome: str) -> None:
        if attempt.outcome:
            self._world.violate("two-outcomes", f"{attempt.token!r} was {attempt.outcome}, then {outcome}")
        attempt.outcome = outcome
        self.outcomes[outcome] += 1
        self._world.log(outcome, attempt.at, attempt.token.decode())

    def done(self, operation: Operation, attempt: Attempt, index: int, result: bytes) -> None:
        self._settle(attempt, "done")
        world, now = self._world, self._world.now
        entry = self.entries.get(index)
        mine = [a.token for a in operation.attempts]
        if entry is None or token_of(entry) not in mine:
            world.violate("wrong-index", f"operation {operation.number} was told index {index}, which holds {entry!r:.40}")
        elif result != result_of(token_of(entry), index):
            world.violate("wrong-result", f"operation {operation.number} at {index} was told {result!r}")
        if operation.index and (operation.index, operation.result) != (index, result):
            world.violate("two-answers", f"operation {operation.number}: {operation.index} {operation.result!r}, then {index} {result!r}")
        if index <= operation.known_before:
            world.violate(
                "write-order", f"operation {operation.number} got {index}, but {operation.known_before} was known before it began"
            )
        if not operation.index:
            operation.index, operation.result = index, result
            self.gaps.append(now - self._last_ack)
            self._last_ack = now
        self.known = max(self.known, index)
        if self.applied_at.get(attempt.at, 0) < index:
            world.violate("not-applied-here", f"{attempt.at} acknowledged {index} before it applied it")

    def not_done(self, attempt: Attempt) -> None:
        self._settle(attempt, "not-done")

    def unknown(self, attempt: Attempt) -> None:
        self._settle(attempt, "unknown")

    def halted(self, attempt: Attempt) -> None:
        self._settle(attempt, "halted")

    def read_done(self, name: str, needed: int, index: int) -> None:
        self._world.log("read", name, index)
        if index < needed:
            self._world.violate("stale-read", f"{name} answered from {index}, but {needed} was known before the read began")
        if self.applied_at.get(name, 0) < index:
            self._world.violate("read-ahead", f"{name} answered from {index} having applied {self.applied_at.get(name, 0)}")
        self.known = max(self.known, index)

    def leads(self, name: str, term: int) -> None:
        known = self.leaders.setdefault(term, name)
        if known != name:
            self._world.violate("two-leaders", f"term {term}: {known} and {name}")
        self.newest_term = max(self.newest_term, term)

    # -- at the end -------------------------------------------------------------------------------------------------

    def final(self, states: dict[str, list[bytes]]) -> None:
        """`states`: every member's tokens in order, after everything was healed and had time to converge."""
        world = self._world
        if len({tuple(tokens) for tokens in states.values()}) > 1:
            world.violate("state-differs", f"lengths {[(n, len(t)) for n, t in sorted(states.items())]}")
        for name, tokens in sorted(states.items()):
            for operation in self.operations:
                if operation.index and (
                    operation.index > len(tokens) or not tokens[operation.index - 1].startswith(b"w%d." % operation.number)
                ):
                    world.violate(
                        "acknowledged-write-lost", f"{name} lacks operation {operation.number}, acknowledged at {operation.index}"
                    )
            counted = Counter(tokens)
            for token, times in sorted(counted.items()):
                if times > 1:
                    world.violate("applied-twice", f"{name} holds {token!r} {times} times")
            for operation in self.operations:
                held = [a for a in operation.attempts if counted[a.token]]
                if operation.request_id is not None and len(held) > 1:
                    world.violate("applied-twice", f"{name} holds operation {operation.number} as {[a.token for a in held]}")
                for attempt in held:
                    if attempt.outcome == "not-done":
                        world.violate("not-done-but-there", f"{name} holds {attempt.token!r}, which was certainly not done")

    def overdue(self, lives: dict[str, int], slack_s: float) -> None:
        """Every proposal a living process took must have ended by its deadline."""
        for operation in self.operations:
            for attempt in operation.attempts:
                if not attempt.outcome and lives.get(attempt.at) == attempt.life and self._world.now > attempt.deadline + slack_s:
                    self._world.violate("no-outcome", f"{attempt.at} never answered {attempt.token!r}")
