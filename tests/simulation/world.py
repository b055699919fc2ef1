"""The simulated world: one virtual clock, one queue of events, one seed that decides everything else.

Nothing here knows what is simulated. Every source of chance has its own generator, named and derived from the seed, so that adding a draw
in one place does not reshuffle the others; every event that matters goes into a running hash, so that two runs can be compared.
"""

import hashlib
import heapq
from collections import Counter
from collections.abc import Callable
from random import Random

from msgspec import Struct

MAX_KEPT_PER_KIND = 3
"""Violations of one kind kept with their details; the rest are only counted."""


class Violation(Struct, frozen=True, kw_only=True):
    at: float
    kind: str
    detail: str


class World:
    """Virtual time, seeded chance, the trace, and the violations found so far. It is also the `contract.Clock` of every replica."""

    def __init__(self, seed: int, *, keep_trace: bool = False) -> None:
        self.seed = seed
        self.now = 0.0
        self.events = 0
        self.counts: Counter[str] = Counter()
        self.violations: list[Violation] = []
        self.violation_kinds: Counter[str] = Counter()
        self.trace: list[str] | None = [] if keep_trace else None
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = 0
        self._hash = hashlib.blake2b(digest_size=16)

    def monotonic(self) -> float:
        return self.now

    def random(self, name: str) -> Random:
        """A generator of its own for one source of chance; text seeds do not depend on PYTHONHASHSEED."""
        return Random(f"{self.seed}/{name}")

    def at(self, time: float, event: Callable[[], None]) -> None:
        """Run `event` at `time`; events of one instant run in the order they were asked for."""
        self._sequence += 1
        heapq.heappush(self._queue, (max(time, self.now), self._sequence, event))

    def after(self, delay_s: float, event: Callable[[], None]) -> None:
        self.at(self.now + delay_s, event)

    def run_until(self, time: float) -> None:
        queue = self._queue
        while queue and queue[0][0] <= time:
            self.now, _, event = heapq.heappop(queue)
            self.events += 1
            event()
        self.now = time

    def log(self, *words: object) -> None:
        """One line of the trace. Only values whose text is the same in every run may be passed."""
        line = f"{self.now:.6f} {' '.join(map(str, words))}\n"
        self._hash.update(line.encode())
        if self.trace is not None:
            self.trace.append(line)

    def violate(self, kind: str, detail: str) -> None:
        self.violation_kinds[kind] += 1
        self.log("VIOLATION", kind, detail)
        if self.violation_kinds[kind] <= MAX_KEPT_PER_KIND:
            self.violations.append(Violation(at=round(self.now, 3), kind=kind, detail=detail))

    def trace_hash(self) -> str:
        return self._hash.hexdigest()
