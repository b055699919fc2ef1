"""HTTP/1.1 over connections that are kept: what every agent asks every second costs it one write and a few callbacks.

httpx's own client makes objects of every part of a call and costs more than ten times as much. Left out is what a server of Kago, or a
proxy before it, is never asked for: redirects, cookies, compression, proxies of the environment. What fails is told in httpx's exceptions.
"""

import asyncio
import base64
import errno
import re
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import lru_cache
from typing import Any, NamedTuple, Protocol, cast
from urllib.parse import urlencode

import httpx
from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

KEPT_S = 30.0
"""An idle connection is not used again after that: less than servers keep one."""
ELSEWHERE_KEPT_S = 5.0
"""The same for connections to servers that are not asked now."""
MAX_HEAD_BYTES = 100 * 1024
MOST_WAITING_BYTES = 256 * 1024
"""Of a stream whose reader is slow: the server is left to wait from then on."""
EYEBALLS_S = 0.25
"""Before a host's next address is tried beside one that does not answer."""
_PLAIN = re.compile(r"[!-~]+")


class Answer(Protocol):
    """As much of an `httpx.Response` as is asked for."""

    @property
    def status_code(self) -> int: ...
    @property
    def is_success(self) -> bool: ...
    @property
    def headers(self) -> Mapping[str, str]:
        """Names in lower case."""

    @property
    def content(self) -> bytes: ...
    @property
    def url(self) -> object: ...
    async def aread(self) -> bytes:
        """The whole body of a stream."""

    def aiter_bytes(self) -> AsyncIterator[bytes]: ...


class Http(Protocol):
    """How servers are asked: `Wire`; in tests an `httpx.AsyncClient`, or the simulated web. All raise httpx.RequestError."""

    async def request(
        self, method: str, url: str, *, params: Mapping[str, str] | None, content: bytes | None, headers: Mapping[str, str] | None,
        timeout: httpx.Timeout,
    ) -> Answer: ...  # fmt: skip
    def stream(
        self, method: str, url: str, *, params: Mapping[str, str] | None, timeout: httpx.Timeout
    ) -> AbstractAsyncContextManager[Answer]: ...
    async def aclose(self) -> None: ...


class _Origin(NamedTuple):
    host: str
    port: int
    tls: bool
    head: str
    """The header lines that every request to it has."""
    login: str
    """One more, where the URL has a user and a password."""


class Wire:
    def __init__(self, *, tls: ssl.SSLContext | None = None, token: str = "") -> None:
        """`token` is sent over https alone."""
        self._tls = tls
        self._authorization = f"authorization: Bearer {token}\r\n" if token else ""
        self._idle: dict[_Origin, list[_Connection]] = {}
        self._busy: set[_Connection] = set()

    async def request(
        self, method: str, url: str, *, params: Mapping[str, str] | None, content: bytes | None, headers: Mapping[str, str] | None,
        timeout: httpx.Timeout,
    ) -> Answer:  # fmt: skip
        """Of `timeout` only `connect` counts: whoever asks ends the call as a whole."""
        origin, message = self._message(method, url, params, content, headers)
        connection = await self._connected(origin, timeout)
        try:
            await connection.ask(message, whole=True)
            return _Answer(connection, url, None)
        finally:
            self._release(origin, connection)

    @asynccontextmanager
    async def stream(self, method: str, url: str, *, params: Mapping[str, str] | None, timeout: httpx.Timeout) -> AsyncIterator[Answer]:
        """An answer whose body comes while it is read; `timeout.read` is the longest wait for the head, and for each piece."""
        origin, message = self._message(method, url, params, None, None)
        connection = await self._connected(origin, timeout)
        try:
            try:
                async with asyncio.timeout(timeout.read):
                    await connection.ask(message, whole=False)
            except TimeoutError:
                raise httpx.ReadTimeout("no answer in time") from None
            yield _Answer(connection, url, timeout.read)
        finally:
            self._release(origin, connection)

    async def aclose(self) -> None:
        for connection in [*self._busy, *(one for idle in self._idle.values() for one in idle)]:
            connection.abort()
        self._idle.clear()
        await asyncio.sleep(0)  # so that their sockets are closed before the loop may be

    def _message(
        self, method: str, url: str, params: Mapping[str, str] | None, content: bytes | None, headers: Mapping[str, str] | None
    ) -> tuple[_Origin, bytes]:
        cut = url.find("/", url.find("://") + 3)
        origin, target = _origin(url[:cut]), url[cut:]
        if not _PLAIN.fullmatch(target):
            target = httpx.URL(url).raw_path.decode("ascii")
        query = f"?{urlencode(params)}" if params else ""
        said = "".join(f"{name}: {value}\r\n" for name, value in headers.items()) if headers else ""
        login = (self._authorization if origin.tls else "") or origin.login
        length = f"content-length: {len(content or b'')}\r\n" if content is not None or method != "GET" else ""
        head = f"{method} {target}{query} HTTP/1.1\r\n{origin.head}{login}{said}{length}\r\n"
        return origin, head.encode("latin-1") + (content or b"")

    async def _connected(self, origin: _Origin, timeout: httpx.Timeout) -> "_Connection":
        now = asyncio.get_running_loop().time()
        found = None
        for other, idle in list(self._idle.items()):
            kept_s = KEPT_S if other == origin else ELSEWHERE_KEPT_S
            while idle and (idle[0].closed or now - idle[0].idle_since > kept_s):
                idle.pop(0).abort()
            if other == origin and idle:
                found = idle.pop()
            if not idle:
                del self._idle[other]
        if found is None or found.closed:
            found = await self._connect(origin, timeout)
        self._busy.add(found)
        return found

    async def _connect(self, origin: _Origin, timeout: httpx.Timeout) -> "_Connection":
        loop, tls = asyncio.get_running_loop(), None
        if origin.tls:
            tls = self._tls = self._tls or httpx.create_ssl_context(trust_env=False)
        # asyncio's own loop alone can race a host's addresses, and asks for it by a parameter that others do not know.
        race: dict[str, Any] = {"happy_eyeballs_delay": EYEBALLS_S} if isinstance(loop, asyncio.BaseEventLoop) else {}
        connect_s = timeout.connect
        try:
            async with asyncio.timeout(connect_s and connect_s * (1 + origin.tls)):  # as long again for the handshake
                _, connection = await loop.create_connection(
                    _Connection, origin.host, origin.port, ssl=tls, server_hostname=origin.host if tls else None, **race
                )
        except TimeoutError:
            raise httpx.ConnectTimeout("no connection in time") from None
        except (OSError, UnicodeError) as error:
            refused = isinstance(error, ConnectionRefusedError) or f"[Errno {errno.ECONNREFUSED}]" in str(error)
            raise httpx.ConnectError("connection refused" if refused else str(error) or type(error).__name__) from error
        return connection

    def _release(self, origin: _Origin, connection: "_Connection") -> None:
        self._busy.discard(connection)
        if connection.reusable:
            connection.idle_since = asyncio.get_running_loop().time()
            self._idle.setdefault(origin, []).append(connection)
        else:
            connection.abort()


class _Connection(asyncio.Protocol):
    """One connection and the answer that comes over it; httptools calls `on_…`."""

    def __init__(self) -> None:
        self.idle_since = 0.0
        self.closed = False
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._parser = HttpResponseParser(self)
        self._begin()

    def _begin(self) -> None:
        """Also before the first question: a server that is full says so at once."""
        self.headed = self.complete = self.reusable = self._paused = False
        self.status_code = 0
        self.headers: dict[str, str] = {}
        self.whole = False
        self._pieces: list[bytes] = []
        self._unread = self._head_bytes = 0
        self._error: httpx.RequestError | None = None

    async def ask(self, message: bytes, *, whole: bool) -> None:
        """Returns when the answer is there, or only its head. httpx.RequestError."""
        assert self._transport is not None
        if self.complete and self.reusable:
            self._begin()
        self.whole = whole
        self._transport.write(message)
        while not (self.complete or (self.headed and not whole)):
            await self._moved()

    def body(self) -> bytes:
        """All of it that has come and was not taken yet."""
        pieces, self._pieces, self._unread = self._pieces, [], 0
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def pieces(self, read_s: float | None) -> AsyncIterator[bytes]:
        """What has come of the body and what comes, each within `read_s`. httpx.RequestError."""
        while True:
            if self._pieces:
                yield self.body()
                continue
            if self.complete:
                return
            try:
                async with asyncio.timeout(read_s):
                    await self._moved()
            except TimeoutError:
                raise httpx.ReadTimeout("no bytes in time") from None

    def abort(self) -> None:
        if self._transport is not None and not self.closed:
            self.closed, self.reusable = True, False
            self._transport.abort()

    async def _moved(self) -> None:
        if self._error is not None:
            raise self._error
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, error: httpx.RequestError) -> None:
        if not self.complete:
            self._error = self._error or error
            self._wake()
        self.abort()

    # -- asyncio.Protocol --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self.complete:
            self.abort()  # nobody asked
            return
        if not self.headed:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self._fail(httpx.RemoteProtocolError(f"not an answer in HTTP/1.1: {error}"))
            return
        if not self.headed and self._head_bytes > MAX_HEAD_BYTES:
            self._fail(httpx.RemoteProtocolError(f"the head of its answer has more than {MAX_HEAD_BYTES} bytes"))

    def connection_lost(self, error: Exception | None) -> None:
        if error is None and self.headed and not self.closed and not self.headers.keys() & {"content-length", "transfer-encoding"}:
            self.complete = True  # such an answer ends with its connection
        self.closed, self.reusable = True, False
        if error is not None:
            self._fail(httpx.ReadError(str(error) or type(error).__name__))
        elif self.headed:
            self._fail(httpx.RemoteProtocolError("it closed the connection amid its answer"))
        else:
            self._fail(httpx.RemoteProtocolError("server disconnected without an answer"))
        self._wake()

    # -- httptools ---------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self.complete:
            self.reusable = False  # a second answer to one question
        else:
            self.headers.clear()  # those of one that only says that the answer is to come

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.complete:
            key, text = name.decode("latin-1").lower(), value.decode("latin-1")
            self.headers[key] = f"{self.headers[key]}, {text}" if key in self.headers else text

    def on_headers_complete(self) -> None:
        if self.complete or (status := self._parser.get_status_code()) < 200:
            return
        self.headed, self.status_code = True, status
        if self.headers.get("content-encoding", "identity") != "identity":
            self._fail(httpx.DecodingError(f"its answer is packed ({self.headers['content-encoding'][:40]}), which nobody asked for"))
        elif not self.whole:
            self._wake()

    def on_body(self, body: bytes) -> None:
        if self.complete:
            return
        self._pieces.append(body)
        if not self.whole:
            self._unread += len(body)
            if self._unread > MOST_WAITING_BYTES and not self._paused and self._transport is not None:
                self._paused = True
                self._transport.pause_reading()
            self._wake()

    def on_message_complete(self) -> None:
        if self.headed and not self.complete and not self.closed:
            self.complete, self.reusable = True, self._parser.should_keep_alive() and not self._paused
            self._wake()


class _Answer:
    def __init__(self, connection: _Connection, url: str, read_s: float | None) -> None:
        self.status_code = connection.status_code
        self.is_success = 200 <= connection.status_code < 300
        self.headers: Mapping[str, str] = connection.headers
        self.content = connection.body() if connection.whole else b""
        self.url = url
        self._connection, self._read_s = connection, read_s

    async def aread(self) -> bytes:
        self.content += b"".join([piece async for piece in self.aiter_bytes()])
        return self.content

    def aiter_bytes(self) -> AsyncIterator[bytes]:
        return self._connection.pieces(self._read_s)


@lru_cache(maxsize=1024)
def _origin(url: str) -> _Origin:
    """Of the part of a URL that names the server. httpx.InvalidURL."""
    parsed = httpx.URL(url)
    tls = parsed.scheme == "https"
    said = base64.b64encode(f"{parsed.username}:{parsed.password}".encode()).decode() if parsed.userinfo else ""
    return _Origin(
        host=parsed.raw_host.decode("ascii"),
        port=parsed.port or (443 if tls else 80),
        tls=tls,
        head=f"host: {parsed.netloc.decode('ascii')}\r\naccept: */*\r\n",
        login=f"authorization: Basic {said}\r\n" if said else "",
    )
