"""Every limit of the API's port, met over real sockets: each has its answer, and whoever keeps to them is served meanwhile."""

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import uvloop

from kago.server.app import Server
from kago.server.gate import Limits
from tests.integration.test_api import WEB, assert_problem, eventually, running

POST = b"POST /deployments HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
Scenario = Callable[[Server, httpx.AsyncClient], Awaitable[None]]


def play(base: Path, limits: Limits, scenario: Scenario) -> None:
    async def all_of_it() -> None:
        async with running(base, limits) as (server, client):
            await scenario(server, client)

    asyncio.run(all_of_it())


async def dial(server: Server) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", int(server.url.rpartition(":")[2]))


class _Heard(asyncio.Protocol):
    """All that came before the end, also before a reset, which a stream would forget."""

    def __init__(self) -> None:
        self.answer = b""
        self.ended = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self.answer += data

    def connection_lost(self, error: Exception | None) -> None:
        self.ended.set_result(None)


async def trickle(server: Server, head: bytes, *, every_s: float = 0.05) -> bytes:
    """Send `head`, then a byte at a time until the server has had enough; its answer."""
    port = int(server.url.rpartition(":")[2])
    transport, heard = await asyncio.get_running_loop().create_connection(_Heard, "127.0.0.1", port)
    transport.write(head)
    async with asyncio.timeout(20):
        while not heard.ended.done():
            await asyncio.sleep(every_s)
            transport.write(b"x")
    return heard.answer


def test_a_head_that_trickles(tmp_path: Path) -> None:
    async def scenario(server: Server, client: httpx.AsyncClient) -> None:
        answer = await trickle(server, b"GET /pods HTTP/1.1\r\nX-Slow: ")
        assert b" 408 " in answer and b"the head of the request did not arrive within 0.5 s" in answer
        assert (await client.get("/health")).status_code == 200

    play(tmp_path, Limits(head_s=0.5), scenario)


def test_a_request_that_is_there_before_its_connection_is_taken(tmp_path: Path) -> None:
    """Under uvloop its bytes come before the task that is to read them has run."""

    async def all_of_it() -> None:
        async with running(tmp_path, Limits()) as (server, _):
            with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as early:
                early.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
                early.setblocking(False)
                async with asyncio.timeout(5):
                    assert b" 200 " in await asyncio.get_running_loop().sock_recv(early, 65_536)

    uvloop.run(all_of_it())


def test_a_body_that_trickles(tmp_path: Path) -> None:
    async def scenario(server: Server, client: httpx.AsyncClient) -> None:
        answers = await asyncio.gather(
            trickle(server, POST + b"Content-Length: 4000000\r\n\r\n{"),
            trickle(server, POST + b"Transfer-Encoding: chunked\r\n\r\nFFFFF\r\n{"),
        )
        for answer in answers:
            assert b" 408 " in answer and b"the body did not arrive within 0.6 s" in answer, answer
        # Answered long before its body is there, which it then sends on for ever.
        assert b" 404 " in await trickle(server, b"GET /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 4000000\r\n\r\n")
        await eventually(lambda: nobody_left(server))
        assert not server.store.tables.deployments

    play(tmp_path, Limits(answer_s=0.6, idle_s=0.6), scenario)


async def nobody_left(server: Server) -> bool:
    assert server._api is not None
    return all(connection.http is None or connection.http.request_body is None for connection in server._api.connections)


def test_a_watcher_that_takes_nothing_is_cut_off(tmp_path: Path) -> None:
    async def scenario(server: Server, client: httpx.AsyncClient) -> None:
        for n in range(50):
            await client.post("/deployments", json={"name": f"d{n}", "image": "x", "replicas": 0, "env": {"A": "x" * 100_000}})
        _, writer = await dial(server)
        writer.write(b"GET /deployments?watch=true HTTP/1.1\r\nHost: x\r\n\r\n")
        await eventually(lambda: watchers(server, 1))
        # Bytes sent meanwhile are no sign that the answer is being taken.
        for _ in range(60):
            await asyncio.sleep(0.05)
            writer.write(b"x")
            if await watchers(server, 0):
                break
        await eventually(lambda: watchers(server, 0))
        writer.close()

    play(tmp_path, Limits(answer_s=0.6), scenario)


async def watchers(server: Server, count: int) -> bool:
    return server.store.feed.watchers == count


def test_an_idle_connection_is_closed(tmp_path: Path) -> None:
    async def scenario(server: Server, client: httpx.AsyncClient) -> None:
        reader, writer = await dial(server)
        async with asyncio.timeout(10):
            assert await reader.read() == b""
        writer.close()

    play(tmp_path, Limits(idle_s=0.5), scenario)


def test_too_many_connections(tmp_path: Path) -> None:
    async def scenario(server: Server, client: httpx.AsyncClient) -> None:
        assert (await client.get("/health")).status_code == 200
        others = [await dial(server) for _ in range(3)]
        await asyncio.sleep(0.05)
        async with httpx.AsyncClient(base_url=server.url) as late:
            document = assert_refused(await late.get("/health"))
            assert document["detail"] == "4 connections are open on this server; ask another one"
            assert (await client.get("/health")).status_code == 200
            others.pop()[1].close()
            await eventually(lambda: healthy(late))
        for _, writer in others:
            writer.close()

    play(tmp_path, Limits(connections=4), scenario)


def test_too_many_connections_of_one_client(tmp_path: Path) -> None:
    async def scenario(server: Server, client: httpx.AsyncClient) -> None:
        assert (await client.get("/health")).status_code == 200
        others = [await dial(server) for _ in range(2)]
        await asyncio.sleep(0.05)
        async with httpx.AsyncClient(base_url=server.url) as late:
            assert "3 connections are open from 127.0.0.1" in assert_refused(await late.get("/health"))["detail"]
        elsewhere = httpx.AsyncHTTPTransport(local_address="127.0.0.2")
        async with httpx.AsyncClient(base_url=server.url, transport=elsewhere) as other:
            assert (await other.get("/health")).status_code == 200
        for _, writer in others:
            writer.close()

    play(tmp_path, Limits(connections_a_client=3, spare_loopback=False), scenario)


def test_too_many_requests(tmp_path: Path) -> None:
    async def scenario(server: Server, client: httpx.AsyncClient) -> None:
        statuses = [(await client.get("/health")).status_code for _ in range(8)]
        assert statuses == [200] * 5 + [429] * 3
        refused = await client.post("/deployments", json=WEB)
        document = assert_problem(refused, 429, "rate-limited")
        assert "127.0.0.1 asks more than 2 times a second" in document["detail"]
        assert refused.headers["retry-after"] == str(document["retry_after"]) == "1"
        assert not server.store.tables.deployments
        elsewhere = httpx.AsyncHTTPTransport(local_address="127.0.0.2")
        async with httpx.AsyncClient(base_url=server.url, transport=elsewhere) as other:
            assert (await other.get("/health")).status_code == 200
        await asyncio.sleep(0.6)
        assert (await client.get("/health")).status_code == 200

    play(tmp_path, Limits(requests_a_second=2, burst=5, spare_loopback=False), scenario)


def test_many_requests_in_one_packet(tmp_path: Path) -> None:
    """Each of them is answered, in order, and its rate is counted."""

    async def scenario(server: Server, client: httpx.AsyncClient) -> None:
        reader, writer = await dial(server)
        writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" * 3 + b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        async with asyncio.timeout(5):
            answer = await reader.read()
        assert re.findall(rb"HTTP/1.1 (\d+) ", answer) == [b"200", b"200", b"429", b"429"]
        writer.close()

    play(tmp_path, Limits(requests_a_second=0.1, burst=2, spare_loopback=False), scenario)


def test_idle_connections_are_in_nobodys_way(tmp_path: Path) -> None:
    async def scenario(server: Server, client: httpx.AsyncClient) -> None:
        idle = [await dial(server) for _ in range(150)]
        for _ in range(20):
            assert (await client.get("/deployments")).status_code == 200
        assert server._api is not None and len(server._api.connections) >= len(idle)
        for _, writer in idle:
            writer.close()

    play(tmp_path, Limits(), scenario)


def assert_refused(answer: httpx.Response) -> dict[str, Any]:
    """Turned away at the door: a problem like any other, but the connection is closed."""
    assert answer.status_code == 429 and answer.headers["connection"] == "close" and answer.headers["retry-after"] == "5"
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = answer.json()
    assert document["type"] == "urn:kago:problem:rate-limited" and document["error"] == document["detail"]
    return document


async def healthy(client: httpx.AsyncClient) -> bool:
    return (await client.get("/health")).status_code == 200
