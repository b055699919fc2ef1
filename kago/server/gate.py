"""Who may connect, how many, how fast, and how long a client may take: every limit of the API's port beside its check and its answer.

Sanic limits bodies, heads and what it buffers, but counts its time-outs anew with every byte that comes, so that a client that trickles
holds a connection for ever; here they count from where the request began, or from the last byte of the answer that was taken. Clients on
loopback are spared the limits per client, for whoever is there may do worse.
"""

import asyncio
import ipaddress
import logging
import resource
import socket
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from msgspec import Struct
from sanic import Request
from sanic.http import Stage
from sanic.server import HttpProtocol

from kago.server.answers import Answering
from kago.server.problems import CONTENT_TYPE, Refused

_logger = logging.getLogger(__name__)
DEAD_PEER_S = 30
"""A machine that is gone without a word is noticed after this long by the kernel: half-open watches do not heap up."""
SPARE_FILES = 256
"""File descriptors kept for the log, the other servers and the process itself."""
MAX_CLIENTS = 10_000
"""Clients whose rate is remembered; each costs a hundred bytes."""
REFUSALS_SAID_EVERY_S = 5.0
LAST_WORDS_S = 2.0
"""Between the answer that a request took too long and the end of its connection."""
MAX_HEAD_BYTES = 2048
"""Longest head that is remembered."""
_READ = b"GET "
_REMEMBERED = (_READ, b"PUT ", b"POST ")
TURNS = 16
"""Requests begun in one round of the event loop."""
MAX_BEHIND_BYTES = 64 * 1024
"""What a client may send ahead while a read of its connection is answered."""
HURRY_S = 0.5
"""A connection that is one too many is told so if it asks for something within this time: a close before that would be a reset."""


class Limits(Struct, frozen=True, kw_only=True):
    connections: int = 20_000
    """Open ones; fewer where the process may not open so many files."""
    connections_a_client: int = 2_000
    requests_a_second: float = 500.0
    """Of one client, lastingly."""
    burst: int = 1_000
    """Requests a client may be ahead of that."""
    spare_loopback: bool = True
    head_s: float = 10.0
    """From a request's first byte to the end of its head."""
    answer_s: float = 60.0
    """From a request's first byte to the end of its body and the beginning of the answer; then from one piece of it taken to the next."""
    idle_s: float = 75.0
    """From an answer to the next request."""
    body_bytes: int = 4 * 1024 * 1024

    def sanic_config(self) -> dict[str, float]:
        """What of it Sanic checks, or we in its place under its names."""
        return {
            "REQUEST_TIMEOUT": self.head_s,
            "RESPONSE_TIMEOUT": self.answer_s,
            "KEEP_ALIVE_TIMEOUT": self.idle_s,
            "REQUEST_MAX_SIZE": self.body_bytes,
        }


class Gate:
    """Counts connections and requests by client: an IPv4 address, or an IPv6 network of 64 bits."""

    def __init__(self, limits: Limits, now: Callable[[], float]) -> None:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.most = limits.connections if soft == resource.RLIM_INFINITY else min(limits.connections, max(1, soft - SPARE_FILES))
        self._limits = limits
        self._now = now
        self._open = 0
        self._open_of: dict[str, int] = {}
        self._due: dict[str, float] = {}
        """When each client will have made up for its requests so far; clients that have are forgotten at some time."""
        self._said_at = float("-inf")
        self._unsaid = 0

    def client_of(self, peername: Any) -> str:
        """The name under which this peer is counted; empty for one that is not."""
        if not isinstance(peername, tuple):
            return ""
        address = ipaddress.ip_address(peername[0].partition("%")[0])
        if isinstance(address, ipaddress.IPv6Address):
            address = address.ipv4_mapped or address
        if address.is_loopback and self._limits.spare_loopback:
            return ""
        return str(address) if address.version == 4 else str(ipaddress.ip_network((address, 64), strict=False))

    def enter(self, client: str) -> Refused | None:
        """Count one more connection, or say why there may be none. `leave` when it ends."""
        if self._open >= self.most:
            return self._turned_away(client, f"{self.most} connections are open on this server; ask another one")
        if client and self._open_of.get(client, 0) >= self._limits.connections_a_client:
            most = self._limits.connections_a_client
            return self._turned_away(client, f"{most} connections are open from {client}, as many as one client may have; close some")
        self._open += 1
        if client:
            self._open_of[client] = self._open_of.get(client, 0) + 1
        return None

    def leave(self, client: str) -> None:
        self._open -= 1
        if client:
            self._open_of[client] -= 1
            if not self._open_of[client]:
                del self._open_of[client]

    def check_rate(self, client: str) -> None:
        """Count one more request. Refused (429) where the client asks too fast; then it is not counted."""
        if not client:
            return
        now, limits = self._now(), self._limits
        due = max(now, self._due.get(client, now)) + 1 / limits.requests_a_second
        wait_s = due - now - limits.burst / limits.requests_a_second
        if wait_s > 0:
            detail = f"{client} asks more than {limits.requests_a_second:g} times a second; ask again in {wait_s:.2f} s"
            raise _too_many(detail, int(wait_s) + 1)
        self._due[client] = due
        if len(self._due) > MAX_CLIENTS:
            self._due = {name: at for name, at in self._due.items() if at > now}
            while len(self._due) > MAX_CLIENTS:
                del self._due[next(iter(self._due))]

    def _turned_away(self, client: str, detail: str) -> Refused:
        now = self._now()
        self._unsaid += 1
        if now - self._said_at >= REFUSALS_SAID_EVERY_S:
            _logger.warning("turned away %d connections, the last one from %s: %s", self._unsaid, client or "this machine", detail)
            self._said_at, self._unsaid = now, 0
        return _too_many(detail, 5)


def _too_many(detail: str, retry_after_s: int) -> Refused:
    return Refused(429, "rate-limited", detail, headers={"retry-after": str(retry_after_s)}, extra={"retry_after": retry_after_s})


class Turns:
    """Lets requests in a few at a time. Everybody's callbacks wait in the same loop, the log's signs of life among them: where thousands of
    agents ask at once, these would come too late, and servers that take each other for dead make everything worse."""

    def __init__(self) -> None:
        self._waiting: deque[Connection] = deque()
        self._taken = 0
        self._due = False

    def take(self, connection: "Connection") -> bool:
        """Whether it may go on now; else its `go_on` is called when it is its turn."""
        if not self._due:
            self._due = True
            connection.loop.call_soon(self._next, connection.loop)
        if self._taken < TURNS and not self._waiting:
            self._taken += 1
            return True
        self._waiting.append(connection)
        return False

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        self._taken = min(TURNS, len(self._waiting))
        self._due = bool(self._taken)
        if self._due:
            loop.call_soon(self._next, loop)
        for _ in range(self._taken):
            self._waiting.popleft().go_on()


class Repeater(Protocol):
    """Answers what it has learnt before Sanic sees it (`repeats.py`)."""

    def knows(self, head: bytes, body_bytes: int, connection: "Connection") -> bool: ...
    def take(self, head: bytes, body: bytes, connection: "Connection") -> bytes | None:
        """The answer; empty: `Connection.answered` is told it later; None: it is not to be answered here."""


class Connection(HttpProtocol):
    """Sanic's protocol behind the gate, and before both what the application repeats; it carries them as `app.ctx`."""

    HTTP_CLASS = Answering
    __slots__ = ("_asked", "_behind", "_client", "_head", "_kept", "_refusal")

    def _setup(self) -> None:
        super()._setup()  # type: ignore[no-untyped-call]
        self._client = ""
        self._refusal: Refused | None = None
        self._head = b""
        """Of the request under way, where that began with a whole one."""
        self._asked = b""
        """The head of what `app.ctx.repeats` is about to answer, and what came in behind the request."""
        self._behind = bytearray()
        self._kept: bytearray | None = None
        """What came in while others have their turn."""
        self.request_handler = self._handle

    async def _handle(self, request: Request) -> None:
        # Before the body is read. Raised here it is answered like what a route raises.
        self.app.ctx.gate.check_rate(self._client)
        await self.app.handle_request(request)

    def connection_made(self, transport: Any) -> None:
        gate: Gate = self.app.ctx.gate
        self._client = gate.client_of(transport.get_extra_info("peername"))
        self._refusal = gate.enter(self._client)
        if self._refusal is not None:
            self.transport = transport
            self.loop.call_later(HURRY_S, transport.abort)
            return
        _notice_dead_peers(transport.get_extra_info("socket"))
        super().connection_made(transport)  # type: ignore[no-untyped-call]

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None:
            if self.transport is not None and not self.transport.is_closing():
                self.transport.write(_whole_answer(self._refusal))
                self.transport.close()
            return
        if self._asked:
            self._behind += data
            if len(self._behind) > MAX_BEHIND_BYTES and self.transport is not None:
                self.transport.pause_reading()
            return
        began = self._time
        self._head = _head_of(data) if self._is_idle() else b""
        if self._head and data.startswith(_READ) and self._is_repeated(data):
            return  # It costs less than to wait for a turn.
        if self._kept is not None:
            self._kept += data
            if len(self._kept) > MAX_BEHIND_BYTES and self.transport is not None:
                self.transport.pause_reading()
        elif self.app.ctx.turns.take(self):
            self._begin(data, began)
        else:
            self._kept = bytearray(data)

    def go_on(self) -> None:
        """It is this connection's turn."""
        kept, self._kept = self._kept, None
        if kept and self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()
            self._begin(bytes(kept), self._time)

    def _begin(self, data: bytes, began: float) -> None:
        if not self._head or data.startswith(_READ) or not self._is_repeated(data):
            self._pass(data, began)

    def _pass(self, data: bytes, began: float) -> None:
        super().data_received(data)
        # Only what comes between two requests begins something new; not so what is left of a body that nobody wanted.
        if self.http is not None and not self._is_between_requests():
            self._time = began

    def _is_between_requests(self) -> bool:
        """Also not while a body is left that nobody wanted. There is no `http` before the task that reads has run for the first time."""
        http = self.http
        return http is not None and self._kept is None and http.stage is Stage.IDLE and not getattr(http, "request_body", None)

    def _is_idle(self) -> bool:
        """Whether nothing is under way nor left over, so that what comes in is the beginning of a request that will be answered next."""
        return self._is_between_requests() and self.http.keep_alive and not self.recv_buffer

    def _is_repeated(self, data: bytes) -> bool:
        repeats: Repeater = self.app.ctx.repeats
        if not self._can_write.is_set() or not repeats.knows(self._head, len(data) - len(self._head), self):
            return False
        try:
            self.app.ctx.gate.check_rate(self._client)
        except Refused:
            return False
        answer = repeats.take(self._head, data[len(self._head) :], self)
        if answer is None:
            return False
        self._time = self.loop.time()
        if answer and self.transport is not None:
            self.transport.write(answer)
        else:
            self._asked = self._head
        return True

    def answered(self, answer: bytes | None) -> None:
        """To what was asked. None: a read that Sanic is to answer."""
        head, self._asked = self._asked, b""
        behind = bytes(self._behind)
        self._behind.clear()
        if self.transport is None or self.transport.is_closing():
            return
        self.transport.resume_reading()
        if answer is None:
            super().data_received(head)
        else:
            self.transport.write(answer)
        if behind:
            self.data_received(behind)

    def known_head(self) -> bytes:
        """Of the request being answered, or, where several came in at once, the first of them."""
        return self._head

    def close_if_idle(self) -> bool:
        return not self._asked and self._kept is None and super().close_if_idle()

    def check_timeouts(self) -> None:
        """Sanic's, which tells the client once and then reads on what is left of the body, for as long as it pleases the client."""
        pending = self._callback_check_timeouts
        super().check_timeouts()  # type: ignore[no-untyped-call]
        if self._callback_check_timeouts is pending:
            self.loop.call_later(LAST_WORDS_S, self._cut_off)

    def _cut_off(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        if self._refusal is None:
            self.app.ctx.gate.leave(self._client)
            super().connection_lost(error)  # type: ignore[no-untyped-call]


def explain_timeout(request: Request) -> str:
    """Words for a 408: what its sender did not send in time."""
    http, config = request.stream, request.app.config
    if http is not None and getattr(http, "request_body", None):
        return f"the body did not arrive within {config.RESPONSE_TIMEOUT:g} s"
    return f"the head of the request did not arrive within {config.REQUEST_TIMEOUT:g} s"


def _head_of(data: bytes) -> bytes:
    """With the empty line at its end. Empty where it is not whole or none to be remembered; a read is alone."""
    if not data.startswith(_REMEMBERED):
        return b""
    end = data.find(b"\r\n\r\n", 0, MAX_HEAD_BYTES) + 4
    return b"" if end < 4 or (end < len(data) and data.startswith(_READ)) else data[:end]


def _notice_dead_peers(sock: Any) -> None:
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, DEAD_PEER_S // 2)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_PEER_S * 1000)


def _whole_answer(refused: Refused) -> bytes:
    """For a connection that no request will be read from."""
    body = refused.body("/")
    rest = f"content-type: {CONTENT_TYPE}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n".encode()
    return refused.status_line() + refused.header_lines() + rest + body
