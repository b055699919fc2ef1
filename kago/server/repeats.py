"""Reads that come again byte for byte, answered without being parsed again.

Whoever polls asks the same thing on and on. The first time Sanic parses it, `Access` says who may, a route answers and notes how (`Read`).
When the very same bytes come again, over any connection, they are answered from the state of that moment and with the same guarantee; only
parsing, routing and formatting are spared, which are nine tenths of the work. Whatever is not plain sailing goes the usual way: an error, a
caller who may not any more, a body, several requests at once, a client that does not take its answers.
"""

import asyncio
from collections.abc import Iterable

from sanic import HTTPResponse, Request
from sanic.http import Http

from kago.server.access import Access, Caller
from kago.server.answers import Read, Standing, content_of
from kago.server.gate import Connection
from kago.server.metrics import Metrics
from kago.server.problems import CONTENT_TYPE, Refused, of_log_error
from kago.server.store import READ_TIMEOUT_S, Store
from raft.errors import LogError

MAX_CONTENT_BYTES = 256 * 1024
"""A larger answer costs more to make than its question to parse."""
MAX_READS = 1024
MAX_HELD_BYTES = 8 * 1024 * 1024
"""Of all contents kept; beyond either limit all is forgotten and learnt anew."""
_UNUSUAL = ("if-none-match", "content-length", "transfer-encoding", "expect", "upgrade")
"""Headers on which an answer, or what comes after it on the connection, depends."""


class _Known:
    """A read, who may do it, and what it is of."""

    __slots__ = ("caller", "path", "read", "size")

    def __init__(self, read: Read, caller: Caller, path: str, size: int) -> None:
        self.read, self.caller, self.path, self.size = read, caller, path, size


class Repeats:
    """The reads one server has learnt, and those it is about to answer."""

    def __init__(self, store: Store, access: Access, standing: Standing, metrics: Metrics) -> None:
        self._store, self._access, self._standing, self._metrics = store, access, standing, metrics
        self._reads: dict[bytes, _Known] = {}
        self._held = 0
        self._waiting: list[tuple[Connection, _Known, float]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def learn(self, request: Request, response: HTTPResponse) -> None:
        """Sanic has answered `request` by `response`; remember how, if it may come again just so, and forget how it was answered before."""
        http, size = request.stream, len(response.body or b"")
        if not isinstance(http, Http) or not http.keep_alive or not isinstance(connection := http.protocol, Connection):
            return
        if not (head := connection.head_alone()):
            return
        if (known := self._reads.pop(head, None)) is not None:
            self._held -= known.size
        read: Read | None = getattr(request.ctx, "read", None)
        if read is None or response.status != 200 or size > MAX_CONTENT_BYTES or any(name in request.headers for name in _UNUSUAL):
            return
        if len(self._reads) >= MAX_READS or self._held + size > MAX_HELD_BYTES:
            self._reads.clear()
            self._held = 0
        self._reads[head] = _Known(read, request.ctx.caller, request.path, size)
        self._held += size

    def knows(self, head: bytes, connection: Connection) -> bool:
        """Whether `head`, all that came in over `connection`, is a read that whoever asks may do."""
        known = self._reads.get(head)
        return known is not None and self._access.still_allows(known.caller, connection.conn_info)

    def take(self, head: bytes, connection: Connection) -> bytes | None:
        """The answer to a known read. Empty: `connection.answered` is told it soon, the log is asked first; None: let Sanic see to it."""
        known, began = self._reads[head], self._store.clock.monotonic()
        if known.read.stale:
            return self._answer(known, began)
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._ask)
        self._waiting.append((connection, known, began))
        return b""

    def _ask(self) -> None:
        """Everybody who has asked by now shares one confirmation by the log, which begins after all of their questions."""
        waiting, self._waiting = self._waiting, []
        task = asyncio.get_running_loop().create_task(self._confirm(waiting))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _confirm(self, waiting: Iterable[tuple[Connection, _Known, float]]) -> None:
        refused: Refused | None = None
        try:
            await self._store.log.barrier(timeout_s=READ_TIMEOUT_S)
        except LogError as error:
            refused = of_log_error(error)
        for connection, known, began in waiting:
            connection.answered(self._answer(known, began) if refused is None else self._refusal(refused, known, began))

    def _answer(self, known: _Known, began: float) -> bytes | None:
        try:
            content = known.read.content()
        except Exception:
            return None  # It is gone, or there is a bug: asked the usual way it is said which.
        self._metrics.answered("GET", 200, self._store.clock.monotonic() - began)
        return b"HTTP/1.1 200 OK\r\n" + self._standing.lines() + content

    def _refusal(self, refused: Refused, known: _Known, began: float) -> bytes:
        self._metrics.answered("GET", refused.status, self._store.clock.monotonic() - began)
        return refused.status_line() + self._standing.lines() + refused.header_lines() + content_of(refused.body(known.path), CONTENT_TYPE)
