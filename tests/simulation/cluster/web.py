"""HTTP in the simulated world: the production client on one end, the production routes on the other.

Requests and answers are lost with their connection, held while the path is cut, late, or delivered twice; a dead server refuses or, without
power, says nothing; a paused one takes the request and answers when it runs again.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import lru_cache, partial
from random import Random
from urllib.parse import urlencode

import httpx
from msgspec import Struct

from kago.client.client import Client
from tests.simulation.cluster.actor import Actor
from tests.simulation.network import Network
from tests.simulation.world import World

REPEATABLE = ("/register", "/heartbeat")
"""Ends of paths whose requests may come twice though the client sent them once; others only with an Idempotency-Key."""


TORN_SHARE = 0.1
"""Pieces of a stream that arrive in two."""


class Manners(Struct, frozen=True, kw_only=True):
    """How this web treats its messages; shares are of all requests."""

    longest_s: float = 0.004
    slow_share: float = 0.0
    slow_s: float = 0.0
    lost_share: float = 0.0
    """Connections that break under a request, before or after it was carried out."""
    repeated_share: float = 0.0


class Request(Struct, frozen=True, kw_only=True):
    method: str
    url: str
    headers: dict[str, str]
    """Names in lower case."""
    content: bytes = b""
    timeout: httpx.Timeout


class Response:
    """`kago.client.wire.Answer`."""

    def __init__(self, status_code: int, headers: dict[str, str], content: bytes, exchange: "Exchange") -> None:
        self.status_code = status_code
        self.headers = headers
        self.content = content
        self.url = exchange.request.url
        self.read_s: float | None = None
        """How long to wait for each piece."""
        self._exchange = exchange

    @property
    def is_success(self) -> bool:
        return 200 <= self.status_code < 300

    async def aread(self) -> bytes:
        self.content += b"".join([piece async for piece in self.aiter_bytes()])
        return self.content

    async def aiter_bytes(self) -> AsyncIterator[bytes]:
        chunks = self._exchange.chunks
        while chunks is not None:
            try:
                async with asyncio.timeout(self.read_s):
                    chunk = await chunks.get()
            except TimeoutError:
                raise httpx.ReadTimeout("no bytes in time") from None
            if chunk is None:
                return
            if isinstance(chunk, httpx.TransportError):
                raise chunk
            yield chunk

    def close(self) -> None:
        self._exchange.close()


class Exchange:
    """One request and its answer. The client's end lives on the client's loop, the server's on the server's."""

    def __init__(self, web: "Web", client: Actor | None, server: str, request: Request) -> None:
        self.web = web
        self.client = client
        self.server = server
        self.request = request
        self.method = request.method
        self.target = _place(request.url)[1]
        self.headers = request.headers
        self.body = request.content
        self.life = client.life if client is not None else 0
        self.head: asyncio.Future[Response] | None = None
        self.chunks: asyncio.Queue[bytes | httpx.TransportError | None] | None = None
        self.cancel: Callable[[], None] = lambda: None
        """Set by the server: the client has gone."""
        self.closed = False
        self._sent: deque[Callable[[], None]] = deque()
        self._last_arrival = 0.0

    # -- the server's end ------------------------------------------------------------------------------------------

    def answer(self, status: int, headers: dict[str, str], body: bytes | None) -> None:
        """`body` None: chunks follow."""
        self._to_client(partial(self._answered, status, dict(headers), body))

    def send(self, data: bytes) -> None:
        """Cut in two at times, anywhere: what the network does to it may come in between."""
        for piece in self.web.torn(data):
            self._to_client(partial(self._put, piece))

    def end(self) -> None:
        self._to_client(partial(self._put, None))

    def reset(self) -> None:
        """The server's end is gone, and its kernel says so."""
        self._to_client(self.broken)

    def _to_client(self, event: Callable[[], None]) -> None:
        if self.client is not None and not self.closed:
            self._sent.append(event)
            arrival = self.web.transmit(self.server, self.client.name, self._arrived, self._last_arrival)
            self._last_arrival = max(self._last_arrival, arrival)

    def _arrived(self) -> None:
        """The oldest first, whichever this is of: what a cut held back comes before what was sent since, as on any connection."""
        event = self._sent.popleft()
        if self.client is not None and self.client.life == self.life:
            self.client.post(event)

    # -- the client's end ------------------------------------------------------------------------------------------

    def _answered(self, status: int, headers: dict[str, str], body: bytes | None) -> None:
        if self.closed or self.head is None or self.head.done():
            return
        if body is None:
            self.chunks = asyncio.Queue()
        else:
            self.closed = True
            self.web.over(self)
        self.head.set_result(Response(status, {name.lower(): value for name, value in headers.items()}, body or b"", self))

    def _put(self, data: bytes | None) -> None:
        if self.chunks is not None:
            self.chunks.put_nowait(data)

    def broken(self) -> None:
        if self.head is not None and not self.head.done():
            self.head.set_exception(httpx.ReadError("connection reset by peer"))
        elif self.chunks is not None:
            self.chunks.put_nowait(httpx.ReadError("connection reset by peer"))

    def close(self) -> None:
        """The client hangs up, or has died."""
        if not self.closed:
            self.closed = True
            self.web.over(self)
            if self.client is not None:
                self.web.transmit(self.client.name, self.server, lambda: self.web.hung_up(self), 0.0)


class Door:
    """What the web needs of a server process."""

    name: str
    alive: bool
    powered: bool

    def post(self, event: Callable[[], None]) -> None:
        raise NotImplementedError

    def take(self, exchange: Exchange) -> None:
        """A request has come in; in a turn of the process."""
        raise NotImplementedError


class Web:
    def __init__(self, world: World, network: Network, manners: Manners) -> None:
        self.world = world
        self.network = network
        self.manners = manners
        self.doors: dict[str, Door] = {}
        """By the host of the URL, which is the server's name without its port."""
        self._chance: Random = world.random("web")
        self._open: dict[str, dict[Exchange, None]] = {}

    def transmit(self, source: str, target: str, event: Callable[[], None], not_before: float) -> float:
        """Let `event` happen at `target` after a while, and after everything of the same exchange; when, by present knowledge."""
        network, chance, manners = self.network, self._chance, self.manners
        if network.is_cut(source, target):
            network.connection(source, target).held.setdefault((source, target), []).append((0, event))
            return not_before
        delay = chance.uniform(0.0002, manners.longest_s)
        if not network.calm and chance.random() < manners.slow_share:
            delay += chance.uniform(0.0, manners.slow_s)
        arrival = max(self.world.now + delay, not_before + 1e-6)
        self.world.at(arrival, event)
        return arrival

    def torn(self, data: bytes) -> tuple[bytes, ...]:
        if len(data) < 2 or self._chance.random() >= TORN_SHARE:
            return (data,)
        at = self._chance.randrange(1, len(data))
        return data[:at], data[at:]

    async def exchange(self, client: Actor, request: Request) -> Response:
        """The client's half of one request. Raises httpx.TransportError as httpx would."""
        limits = request.timeout
        door = self.doors.get(_place(request.url)[0])
        if door is None:
            raise httpx.ConnectError("no such host")
        exchange = Exchange(self, client, door.name, request)
        if self._cut(client.name, door.name) or not door.powered:
            await asyncio.sleep(limits.connect or 5.0)
            raise httpx.ConnectTimeout("no connection in time")
        if not door.alive:
            await asyncio.sleep(self._chance.uniform(0.0002, self.manners.longest_s))
            raise httpx.ConnectError("connection refused")
        exchange.head = asyncio.get_running_loop().create_future()
        self._open.setdefault(door.name, {})[exchange] = None
        client.on_death.append(exchange.close)
        fate = self._fate()
        self.transmit(client.name, door.name, lambda: self._arrive(door, exchange, fate), 0.0)
        self._repeat(exchange)
        try:
            async with asyncio.timeout(limits.read):
                response = await exchange.head
        except TimeoutError:
            exchange.close()
            raise httpx.ReadTimeout("no answer in time") from None
        except BaseException:
            exchange.close()
            raise
        finally:
            if exchange.close in client.on_death:
                client.on_death.remove(exchange.close)
        if exchange.chunks is not None:
            client.on_death.append(exchange.close)
            response.read_s = limits.read
        return response

    def _fate(self) -> str:
        lost = self.manners.lost_share
        draw = self._chance.random()
        if self.network.calm or draw > lost:
            return ""
        self.world.counts["http-lost"] += 1
        return "request" if draw < lost / 2 else "answer"

    def _arrive(self, door: Door, exchange: Exchange, fate: str) -> None:
        if not door.alive:
            exchange.reset()
            return
        if fate:
            exchange.reset()
        if fate != "request":
            door.post(partial(door.take, exchange))

    def _repeat(self, exchange: Exchange) -> None:
        path = exchange.target.partition(b"?")[0].decode()
        repeatable = path.endswith(REPEATABLE) or "idempotency-key" in exchange.headers
        if not repeatable or self.network.calm or self._chance.random() >= self.manners.repeated_share:
            return
        self.world.counts["http-repeated"] += 1
        name = self._chance.choice(sorted(self.doors))
        door, ghost = self.doors[name], _ghost(exchange)

        def arrive() -> None:
            if door.alive and not self.network.calm:
                door.post(partial(door.take, ghost))

        self.world.after(self._chance.choice((0.002, 0.3, 3.0)) * self._chance.random(), arrive)

    def _cut(self, a: str, b: str) -> bool:
        return self.network.is_cut(a, b) or self.network.is_cut(b, a)

    def over(self, exchange: Exchange) -> None:
        self._open.get(exchange.server, {}).pop(exchange, None)
        client = exchange.client
        if client is not None and exchange.close in client.on_death:
            client.on_death.remove(exchange.close)

    def hung_up(self, exchange: Exchange) -> None:
        for door in self.doors.values():
            if door.name == exchange.server and door.alive:
                # What had come in before is begun before its reader finds that nobody is left there.
                door.post(lambda door=door: door.post(lambda: exchange.cancel()))  # type: ignore[misc]

    def server_gone(self, name: str, *, power: bool) -> None:
        """Its kernel closes every connection; without power nobody is told."""
        gone = self._open.pop(name, {})
        for exchange in gone:
            if not power:
                exchange.reset()


def _ghost(exchange: Exchange) -> Exchange:
    """The same request once more, with nobody to hear the answer."""
    return Exchange(exchange.web, None, exchange.server, exchange.request)


@lru_cache(maxsize=4096)
def _place(url: str) -> tuple[str, bytes]:
    """(host, path and query) of a URL without a port."""
    host, slash, target = url.partition("://")[2].partition("/")
    return host, f"{slash}{target}".encode()


class Http:
    """`kago.client.wire.Http`; notes what was answered last."""

    def __init__(self, web: Web, client: Actor) -> None:
        self._web = web
        self._client = client
        self.operation = ""
        """Goes with each request, so that what it leads to can be told apart."""
        self.index: int | None = None
        """X-Kago-Index of the last answer."""

    def client(self, servers: Iterable[str], *, timeout_s: float = 3.0) -> Client:
        """A production client that asks through this."""
        return Client(servers, clock=self._client.clock, http=self, timeout_s=timeout_s)

    async def request(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, str] | None,
        content: bytes | None,
        headers: Mapping[str, str] | None,
        timeout: httpx.Timeout,
    ) -> Response:
        response = await self._send(self._request(method, url, params, content, headers, timeout))
        await response.aread()
        return response

    @asynccontextmanager
    async def stream(self, method: str, url: str, *, params: Mapping[str, str] | None, timeout: httpx.Timeout) -> AsyncIterator[Response]:
        response = await self._send(self._request(method, url, params, None, None, timeout))
        try:
            yield response
        finally:
            response.close()

    async def aclose(self) -> None:
        return

    def _request(
        self,
        method: str,
        url: str,
        params: Mapping[str, str] | None,
        content: bytes | None,
        headers: Mapping[str, str] | None,
        timeout: httpx.Timeout,
    ) -> Request:
        said = {name.lower(): value for name, value in (headers or {}).items()}
        if self.operation:
            said["x-operation"] = self.operation
        query = f"?{urlencode(params)}" if params else ""
        return Request(method=method, url=url + query, headers=said, content=content or b"", timeout=timeout)

    async def _send(self, request: Request) -> Response:
        response = await self._web.exchange(self._client, request)
        said = response.headers.get("x-kago-index", "")
        self.index = int(said) if said.isdigit() else None
        return response
