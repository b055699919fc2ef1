"""Clients: unique appends through every member, retries through another one, and linearizable reads everywhere.

Some operations are tried again under the same request id after an unknown outcome, some even after they were acknowledged, so that a second
application or a second answer would show.
"""

from collections.abc import Callable
from typing import Protocol

from .checkers import Attempt, Books, Operation
from .machine import entry_of
from .world import World

DEADLINES_S = (0.4, 1.0, 3.0)
MAX_ATTEMPTS = 4
PADDING = (0, 40, 300, 3000)
PADDING_WEIGHTS = (4, 4, 2, 0.3)
HEDGED_SHARE = 0.05
"""Operations proposed a second time, most often elsewhere, before the first answer."""


class Server(Protocol):
    """What a client needs of a process."""

    name: str
    life: int

    @property
    def serving(self) -> bool: ...
    def propose(self, entry: bytes, request_id: bytes | None, timeout_s: float, on_outcome: Callable[[str, int, bytes], None]) -> None:
        """`on_outcome` is told (done | not-done | unknown | halted, index, result)."""

    def read(self, timeout_s: float, on_outcome: Callable[[int | None], None]) -> None:
        """`on_outcome` is told the index read at, or None."""


class Clients:
    def __init__(self, world: World, books: Books, servers: dict[str, Server], *, writes_per_s: float, reads_per_s: float) -> None:
        self._world = world
        self._books = books
        self._servers = servers
        self._writes_per_s = writes_per_s
        self._reads_per_s = reads_per_s
        self._chance = world.random("clients")
        self.until = 0.0

    def start(self, at: float, until: float) -> None:
        self.until = until
        self._world.at(at, self._write)
        self._world.at(at, self._read)

    def _pick(self) -> Server | None:
        server = self._servers[self._chance.choice(sorted(self._servers))]
        return server if server.serving else None

    # -- writes ---------------------------------------------------------------------------------------------------

    def _write(self) -> None:
        # A seldom writer's next turn may lie seconds behind the end, and its write would still be under way when everything is compared.
        if self._world.now > self.until:
            return
        for _ in range(self._chance.choice((1, 1, 1, 2, 5))):
            self.append()
        self._world.after(self._chance.expovariate(self._writes_per_s), self._write)

    def append(self, on_done: Callable[[], None] | None = None, server: Server | None = None) -> None:
        """Begin one operation at `server`, or at any."""
        server = server or self._pick()
        if server is None:
            return
        named = self._chance.random() < 0.7
        operation = self._books.begin(self._chance.randbytes(16) if named else None)
        self._try(operation, server, on_done)

    def _try(self, operation: Operation, server: Server, on_done: Callable[[], None] | None = None) -> None:
        chance, timeout_s = self._chance, self._chance.choice(DEADLINES_S)
        attempt = self._books.attempt(operation, server.name, server.life, timeout_s)
        entry = entry_of(attempt.token, chance.choices(PADDING, PADDING_WEIGHTS)[0])

        def outcome(kind: str, index: int, result: bytes) -> None:
            self._outcome(operation, attempt, kind, index, result)
            if kind == "done" and on_done is not None:
                on_done()

        server.propose(entry, operation.request_id, timeout_s, outcome)
        if operation.request_id is not None and len(operation.attempts) == 1 and chance.random() < HEDGED_SHARE:
            self._world.after(chance.uniform(0.0, 0.02), lambda: self._again(operation))

    def _outcome(self, operation: Operation, attempt: Attempt, kind: str, index: int, result: bytes) -> None:
        again = 0.0
        match kind:
            case "done":
                self._books.done(operation, attempt, index, result)
                again = 0.05
            case "not-done":
                self._books.not_done(attempt)
                again = 0.3
            case "unknown":
                self._books.unknown(attempt)
                again = 0.8
            case _:
                self._books.halted(attempt)
                again = 0.8
        if operation.request_id is not None and len(operation.attempts) < MAX_ATTEMPTS and self._chance.random() < again:
            self._world.after(self._chance.choice((0.0, 0.01, 0.5)), lambda: self._again(operation))

    def _again(self, operation: Operation) -> None:
        server = self._pick()
        if server is not None and self._world.now < self.until:
            self._try(operation, server)

    # -- reads ----------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        if self._world.now > self.until:
            return
        server = self._pick()
        if server is not None:
            self.read_at(server)
        self._world.after(self._chance.expovariate(self._reads_per_s), self._read)

    def read_at(self, server: Server) -> None:
        needed, books = self._books.known, self._books
        books.outcomes["reads"] += 1

        def outcome(index: int | None) -> None:
            if index is not None:
                books.outcomes["reads-done"] += 1
                books.read_done(server.name, needed, index)

        server.read(self._chance.choice(DEADLINES_S), outcome)
