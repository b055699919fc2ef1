"""Requests whose head comes again byte for byte, answered without being parsed again.

Whoever polls asks the same thing on and on, and who writes often says the same about it each time. The first time Sanic parses it, `Access`
says who may, a route answers, and a read notes how (`Read`). When the very same head comes again, over any connection, a read is answered
from the state of that moment and with the same guarantee, and a write goes straight to its route; only parsing, routing and formatting are
spared, which are nine tenths of a read's work and a fifth of a write's. Whatever is not plain sailing goes the usual way: a read that
comes to an error, a caller who may not any more, a body that does not come along whole, several requests at once, a client that does not
take its answers.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from sanic import HTTPResponse, Request
from sanic.http import Http

from kago.server.access import Access, Caller
from kago.server.answers import Read, Standing, written_out
from kago.server.checks import Checks
from kago.server.gate import Connection
from kago.server.incoming import Incoming
from kago.server.metrics import Metrics
from kago.server.problems import Refused, of_log_error
from kago.server.store import READ_TIMEOUT_S, Store
from raft.errors import LogError

MAX_CONTENT_BYTES = 256 * 1024
"""A larger answer costs more to make than its question to parse."""
MAX_HEADS = 1024
MAX_HELD_BYTES = 8 * 1024 * 1024
"""Of all contents kept; beyond either limit all is forgotten and learnt anew."""
_UNUSUAL = ("transfer-encoding", "expect", "upgrade")
"""Headers on which what comes after the head depends."""
_UNUSUAL_IN_READS = (*_UNUSUAL, "if-none-match", "content-length")
_UNUSUAL_IN_WRITES = (*_UNUSUAL, "idempotency-key", "date")
"""A key, or an agent's time, is another each time: its head never comes again."""


class _Known:
    """A request that whoever it was may make; come again it has as many bytes of body, and its answer keeps so many for the next."""

    __slots__ = ("body_bytes", "caller", "held_bytes", "request")

    def __init__(self, request: Incoming, held_bytes: int) -> None:
        self.caller: Caller = request.ctx.caller
        self.request, self.body_bytes, self.held_bytes = request.again(b"", None, None), len(request.body), held_bytes


class _KnownRead(_Known):
    __slots__ = ("read",)

    def __init__(self, request: Incoming, read: Read, held_bytes: int) -> None:
        super().__init__(request, held_bytes)
        self.read = read


class Repeats:
    """The heads one server has learnt, and the reads it is about to answer."""

    def __init__(
        self,
        store: Store,
        access: Access,
        checks: Checks,
        standing: Standing,
        metrics: Metrics,
        explain: Callable[[Request, Exception], HTTPResponse],
    ) -> None:
        self._store, self._access, self._checks, self._standing, self._metrics = store, access, checks, standing, metrics
        self._explain = explain
        self._known: dict[bytes, _Known] = {}
        self._held = 0
        self._waiting: list[tuple[Connection, _KnownRead, float]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def learn(self, request: Request, response: HTTPResponse) -> None:
        """Sanic has answered `request` by `response`; remember how, if it may come again just so, and forget how it was answered before."""
        http = request.stream
        if not isinstance(http, Http) or not http.keep_alive or not isinstance(connection := http.protocol, Connection):
            return
        head = connection.known_head()
        if not isinstance(request, Incoming) or head[:-4] != request.head:
            return
        if (before := self._known.pop(head, None)) is not None:
            self._held -= before.held_bytes
        known = _known(request, response)
        if known is None:
            return
        if len(self._known) >= MAX_HEADS or self._held + known.held_bytes > MAX_HELD_BYTES:
            self._known.clear()
            self._held = 0
        self._known[head] = known
        self._held += known.held_bytes

    def knows(self, head: bytes, body_bytes: int, connection: Connection) -> bool:
        """Whether `head` and a body of so many bytes, all that came in over `connection`, are a request that whoever asks may make."""
        known = self._known.get(head)
        return known is not None and known.body_bytes == body_bytes and self._access.still_allows(known.caller, connection.conn_info)

    def take(self, head: bytes, body: bytes, connection: Connection) -> bytes | None:
        """The answer to a known request. Empty: `connection.answered` is told it later; None: let Sanic see to it."""
        known, began = self._known[head], self._store.clock.monotonic()
        if not isinstance(known, _KnownRead):
            request = known.request.again(body, connection.transport, connection.conn_info)
            self._start(self._write(request, known.caller, connection, began))
            return b""
        if known.read.stale:
            return self._answer(known, began)
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._ask)
        self._waiting.append((connection, known, began))
        return b""

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _write(self, request: Incoming, caller: Caller, connection: Connection, began: float) -> None:
        """What Sanic and the application do around a route."""
        request.ctx.caller = caller
        try:
            self._checks.require_room(request.method, request.path)
            assert request.route is not None
            told = self._told(request, await request.route.handler(request, **request.match_info), began)
        except Exception as error:
            told = self._told(request, self._explain(request, error), began)
        connection.answered(told)

    def _ask(self) -> None:
        """Everybody who has asked by now shares one confirmation by the log, which begins after all of their questions."""
        waiting, self._waiting = self._waiting, []
        self._start(self._confirm(waiting))

    async def _confirm(self, waiting: Iterable[tuple[Connection, _KnownRead, float]]) -> None:
        refused: Refused | None = None
        try:
            await self._store.log.barrier(timeout_s=READ_TIMEOUT_S)
        except LogError as error:
            refused = of_log_error(error)
        for connection, known, began in waiting:
            if refused is None:
                connection.answered(self._answer(known, began))
            else:
                connection.answered(self._told(known.request, self._explain(known.request, refused), began))

    def _answer(self, known: _KnownRead, began: float) -> bytes | None:
        try:
            content = known.read.content()
        except Exception:
            return None  # It is gone, or there is a bug: asked the usual way it is said which.
        self._metrics.answered("GET", 200, self._store.clock.monotonic() - began)
        return b"HTTP/1.1 200 OK\r\n" + self._standing.lines() + content

    def _told(self, request: Incoming, answer: HTTPResponse, began: float) -> bytes:
        """`answer` as it is sent, and counted."""
        written = written_out(answer, self._standing, keep_alive=True)
        assert written is not None, "it has a body, and headers that can be sent"
        self._metrics.answered(request.method, answer.status, self._store.clock.monotonic() - began)
        return written


def _known(request: Incoming, response: HTTPResponse) -> _Known | None:
    """None: it is not to be repeated."""
    if request.method == "GET":
        read: Read | None = getattr(request.ctx, "read", None)
        size = len(response.body or b"")
        usual = response.status == 200 and size <= MAX_CONTENT_BYTES and not any(name in request.headers for name in _UNUSUAL_IN_READS)
        return _KnownRead(request, read, size) if usual and read is not None else None
    usual = response.status < 300 and bool(response.body) and not any(name in request.headers for name in _UNUSUAL_IN_WRITES)
    return _Known(request, 0) if usual else None
