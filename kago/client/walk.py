"""One request to any of several servers: who is asked next, for how long, and what may be asked twice.

Everything sent here may be repeated: reads by their nature, writes by their Idempotency-Key, registrations and heartbeats because
they only restate something. So a server that dies with our request in its hands costs a repetition,
never a doubt. What is not repeated is an answer that says no.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from ssl import SSLContext

import httpx

from kago.client.errors import ClientError, Problem, TimedOut, Unreachable
from kago.client.wire import Answer, Http, Wire
from kago.clock import Clock, seconds_of
from kago.core.model.quantity import parse_whole

CONNECT_S = 1.0
"""A host that takes longer to accept is as good as gone."""
MIN_ATTEMPT_S = 1.0
PAUSE_S = 0.15
"""Between two walks over servers that have no leader: an election takes a few times this."""
MAX_LINE_BYTES = 4 * 1024 * 1024
RETRYABLE = frozenset({429, 502, 503, 504})


class Walker:
    """The list of servers, the one that worked last, and the connections to them."""

    def __init__(
        self,
        servers: Iterable[str],
        *,
        timeout_s: float,
        clock: Clock,
        tls: SSLContext | None = None,
        token: str = "",
        http: Http | None = None,
    ) -> None:
        """`tls`: of a secured cluster; `token` is sent over https alone. `http`, in tests, stands in the place of the connections."""
        self._scheme = "http" if tls is None else "https"
        self._given = self._urls(servers)
        if tls is not None and (plain := [url for url in self._given if not url.startswith("https://")]):
            raise ValueError(f"{plain[0]}: a secured cluster is asked over https alone")
        if not self._given:
            raise ValueError("at least one server URL is needed")
        self._servers = self._given
        self._current = 0
        self._slow: set[str] = set()
        """Servers that were waited for in vain when they were asked last."""
        self.timeout_s = timeout_s
        self._clock = clock
        self._http: Http = http or Wire(tls=tls, token=token)
        self._date_offset_s = 0.0
        self._announced = ""
        self._announced_at = 0
        """Log index of whoever told the list of servers last."""

    @property
    def servers(self) -> tuple[str, ...]:
        """Every known server, the one that worked last first."""
        return self._servers[self._current :] + self._servers[: self._current]

    @property
    def announced(self) -> tuple[str, ...]:
        """The servers that the cluster itself names."""
        return tuple(server for server in self._announced.split(",") if server)

    def learn(self, servers: Iterable[str]) -> None:
        """Take the cluster's own list; those we were started with stay at its end, so the list never runs empty."""
        current = self._servers[self._current]
        self._servers = tuple(dict.fromkeys([*(url for url in usable_urls(servers) if url.startswith(self._scheme)), *self._given]))
        self._current = self._servers.index(current) if current in self._servers else 0

    def _urls(self, servers: Iterable[str]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(normal_url(server, self._scheme) for server in servers if server))

    def server_now(self) -> float:
        """Seconds since the epoch by the clock of the server that answered last."""
        return self._clock.now() + self._date_offset_s

    async def close(self) -> None:
        await self._http.aclose()

    async def call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> Answer:
        """The first answer that is not "not now" (2xx, or a Problem raised); raises ClientError by the deadline."""
        total_s = self.timeout_s if timeout_s is None else timeout_s
        deadline = self._clock.monotonic() + total_s
        maybe_done = False
        while True:
            tried: list[tuple[str, str]] = []
            refusal: Problem | None = None
            for server in self._walk():
                left = deadline - self._clock.monotonic()
                if left <= 0:
                    break
                try:
                    answer = await self._attempt(method, server + path, params, body, headers, max(left / 2, min(left, MIN_ATTEMPT_S)))
                except (httpx.RequestError, TimeoutError) as error:
                    tried.append((server, reason(error)))
                    maybe_done = maybe_done or not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
                    self._leave(server, error)
                    continue
                self._stay(server)
                if answer.is_success:
                    return answer
                problem = Problem.decode(answer.status_code, answer.content, retry_after=answer.headers.get("retry-after"))
                if problem.status == 404 and method == "DELETE" and maybe_done:
                    return answer  # an earlier attempt got through and only its answer was lost
                if problem.status not in RETRYABLE:
                    raise problem
                maybe_done = maybe_done or problem.type == "outcome-unknown"
                refusal = problem
                self._leave(server)
            if refusal is None and len(tried) >= len(self._servers):
                raise Unreachable(tuple(tried))
            pause = max(PAUSE_S, min((refusal.retry_after_s or 0.0) if refusal else 0.0, 2 * PAUSE_S))
            if self._clock.monotonic() + pause >= deadline:
                raise refusal or (TimedOut(tried[-1][0], total_s) if tried else TimedOut(self._servers[self._current], total_s))
            await asyncio.sleep(pause)

    async def ask(self, server: str, path: str, *, timeout_s: float) -> Answer:
        """One answer of this one server; Problem, Unreachable."""
        try:
            answer = await self._attempt("GET", normal_url(server) + path, None, None, None, timeout_s)
        except (httpx.RequestError, TimeoutError, ValueError) as error:
            raise Unreachable(((server, reason(error)),)) from error
        if not answer.is_success:
            raise Problem.decode(answer.status_code, answer.content)
        return answer

    @asynccontextmanager
    async def stream(
        self, path: str, *, params: Mapping[str, str], silence_s: float, lines: bool = True
    ) -> AsyncIterator[tuple[str, AsyncIterator[bytes]]]:
        """(server, its lines, or bytes as they come) of the first server that opens the stream.

        Silence longer than `silence_s` ends it with Unreachable."""
        tried: list[tuple[str, str]] = []
        for server in self._walk():
            limits = httpx.Timeout(connect=min(CONNECT_S, silence_s), read=silence_s, write=silence_s, pool=silence_s)
            opened = False
            try:
                async with self._http.stream("GET", server + path, params=params, timeout=limits) as answer:
                    opened = True
                    self._stay(server)
                    if not answer.is_success:
                        problem = Problem.decode(answer.status_code, await answer.aread(), retry_after=answer.headers.get("retry-after"))
                        if problem.status in RETRYABLE:
                            self._leave(server)
                        raise problem
                    self._note_date(answer)
                    yield server, _lines(answer) if lines else answer.aiter_bytes()
                    return
            except httpx.RequestError as error:
                self._leave(server, error)
                tried.append((server, reason(error)))
                if opened:
                    raise Unreachable(tuple(tried[-1:])) from error
        raise Unreachable(tuple(tried))

    def leave_current(self) -> None:
        """Ask another server first from now on."""
        self._leave(self._servers[self._current])

    async def _attempt(
        self, method: str, url: str, params: Mapping[str, str] | None, body: bytes | None, headers: Mapping[str, str] | None, seconds: float
    ) -> Answer:
        limits = httpx.Timeout(seconds, connect=min(CONNECT_S, seconds))
        async with asyncio.timeout(seconds):
            answer = await self._http.request(method, url, params=params or None, content=body, headers=headers, timeout=limits)
        self._note_date(answer)
        self._note_servers(answer)
        return answer

    def _walk(self) -> tuple[str, ...]:
        """Each server once. Those that cost a time-out come last: behind two that are cut off, the third would be heard too seldom."""
        return tuple(sorted(self.servers, key=self._slow.__contains__))

    def _stay(self, server: str) -> None:
        """It answered, if only that it cannot now."""
        self._slow.discard(server)
        if server in self._servers:
            self._current = self._servers.index(server)

    def _leave(self, server: str, error: Exception | None = None) -> None:
        """Go on to the next server, unless another call already did."""
        if isinstance(error, httpx.TimeoutException | TimeoutError):
            self._slow.add(server)
        if self._servers[self._current] == server:
            self._current = (self._current + 1) % len(self._servers)

    def _note_servers(self, answer: Answer) -> None:
        """Servers come and go: the cluster's own list, behind those we were given, which may be the only ones reached from here.

        One that was cut off, or removed without hearing of it, goes on telling the list of its time: what was told later is worth more.
        """
        headers = answer.headers
        announced, reached = headers.get("x-kago-servers", ""), parse_whole(headers.get("x-kago-index", "")) or 0
        if reached < self._announced_at and headers.get("x-kago-known-leader") != "true":
            return
        self._announced_at = reached
        if announced == self._announced:
            return
        self._announced, current = announced, self._servers[self._current]
        self._servers = tuple(dict.fromkeys([*self._given, *usable_urls(announced.split(",")), current]))
        self._current = self._servers.index(current)

    def _note_date(self, answer: Answer) -> None:
        date = answer.headers.get("date")
        if date:
            try:
                self._date_offset_s = seconds_of(date) - self._clock.now()
            except (ValueError, OverflowError):
                self._date_offset_s = 0.0


async def _lines(answer: Answer) -> AsyncIterator[bytes]:
    """Split at newlines and nothing else: httpx's own splitter also takes U+2028 and others, which JSON strings may hold."""
    rest: list[bytes] = []
    size = 0
    async for chunk in answer.aiter_bytes():
        first, *others = chunk.split(b"\n")
        rest.append(first)
        size += len(first)
        if others:
            yield b"".join(rest)
            for line in others[:-1]:
                yield line
            rest, size = [others[-1]], len(others[-1])
        if size > MAX_LINE_BYTES:
            raise httpx.RemoteProtocolError(f"a line of more than {MAX_LINE_BYTES} bytes")


def normal_url(server: str, scheme: str = "http") -> str:
    """`host:port` is taken as http://host:port (or as https, where the cluster is secured); no slash at the end."""
    text = server.strip()
    if "://" not in text:
        text = f"{scheme}://{text}"
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise ValueError(f"not a server URL: {server!r} ({error})") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError(f"not a server URL: {server!r} (wanted http://host:port)")
    return text.rstrip("/")


def usable_urls(announced: Iterable[str]) -> tuple[str, ...]:
    """Of what somebody calls a list of servers those that are URLs."""
    found = []
    for server in announced:
        try:
            found.append(normal_url(server))
        except ValueError:
            continue
    return tuple(dict.fromkeys(found))


def reason(error: Exception) -> str:
    """In words; httpx's time-outs have no text of their own."""
    match error:
        case httpx.ConnectTimeout():
            return "no connection in time"
        case httpx.TimeoutException() | TimeoutError():
            return "no answer in time"
        case httpx.ConnectError() if "refused" in str(error).lower() or "all connection attempts failed" in str(error).lower():
            return "connection refused"
        case httpx.RemoteProtocolError() if "disconnected without" in str(error):
            return "it closed the connection without a word; does it speak https?"
        case httpx.ConnectError() if "WRONG_VERSION_NUMBER" in str(error):
            return "it does not speak https; this cluster is not secured"
        case httpx.ConnectError() if "CERTIFICATE_VERIFY_FAILED" in str(error):
            return f"its certificate is not one of the cluster this client knows ({_short(str(error))})"
        case httpx.TransportError() if "alert" in str(error).lower():
            return f"it refuses our certificate ({_short(str(error))})"
        case ClientError():
            return str(error)
        case _:
            return str(error) or type(error).__name__


def _short(text: str) -> str:
    """Of OpenSSL's words the ones for people."""
    return text.partition("] ")[2].partition(" (_ssl")[0] or text
