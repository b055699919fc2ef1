"""Reads that come again byte for byte: answered without Sanic, and in nothing else than Sanic would."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from kago.core.model.token import TokenRole
from kago.security.subject import Role
from kago.server.app import Server
from kago.server.gate import Limits
from kago.server.repeats import Repeats
from tests.integration.secured import Secured
from tests.integration.test_api import NODE, WEB, play, running
from tests.integration.test_secured_api import play as play_secured

VARYING = (b"date:", b"x-kago-last-contact:", b"alt-svc:")
"""The last is Sanic's, which leaves it out of the answers of a process's first application."""


class Line:
    """One connection on which bytes are sent as they are."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, head: bytes) -> tuple[int, list[bytes], bytes]:
        self.writer.write(head)
        return await self.answer()

    async def answer(self) -> tuple[int, list[bytes], bytes]:
        """(status, lines of the head in order of their names, body)"""
        async with asyncio.timeout(10):
            first, *lines = (await self.reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[:-2]
            size = next((int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:")), 0)
            return int(first.split()[1]), sorted(lines), await self.reader.readexactly(size)


@asynccontextmanager
async def line(url: str, group: Secured | None = None, pair: Path | None = None) -> AsyncIterator[Line]:
    address = httpx.URL(url)
    assert address.port is not None
    tls = group.context(pair) if group is not None else None
    opened = Line(*await asyncio.open_connection(address.host, address.port, ssl=tls, limit=1 << 22))
    try:
        yield opened
    finally:
        opened.writer.close()


def get(path: str, *headers: str) -> bytes:
    return "\r\n".join((f"GET {path} HTTP/1.1", "host: kago", *headers, "", "")).encode()


def watched(monkeypatch: pytest.MonkeyPatch, *methods: bytes) -> list[bytes]:
    heads: list[bytes] = []
    take = Repeats.take

    def watched(self: Repeats, head: bytes, body: bytes, connection: object) -> bytes | None:
        if head.startswith(methods):
            heads.append(head)
        return take(self, head, body, connection)  # type: ignore[arg-type]

    monkeypatch.setattr(Repeats, "take", watched)
    return heads


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The heads of reads that were answered without Sanic."""
    return watched(monkeypatch, b"GET ")


def same(one: tuple[int, list[bytes], bytes], other: tuple[int, list[bytes], bytes]) -> None:
    assert (one[0], one[2]) == (other[0], other[2])
    assert [a for a in one[1] if not a.startswith(VARYING)] == [b for b in other[1] if not b.startswith(VARYING)]
    for lines in (one[1], other[1]):
        assert {b"date", b"x-kago-last-contact"} <= {line.partition(b":")[0] for line in lines}


QUESTIONS = ("/deployments/web", "/deployments", "/v1/pods", "/pods?deployment_name=web", "/nodes", "/nodes/n1", "/pods?selector=a!=b")


def test_an_answer_is_the_same_as_sanics_and_always_of_now(tmp_path: Path, taken: list[bytes]) -> None:
    async def scenario(server: Server, client: httpx.AsyncClient) -> None:
        await client.post("/nodes/register", json=NODE)
        await client.post("/deployments", json=WEB)
        heads = [get(path + more) for path in QUESTIONS for more in ("", "&stale=true" if "?" in path else "?stale=true")]
        async with line(server.url) as one, line(server.url) as other:
            for replicas in (2, 3, 5):
                before = len(taken)
                assert (await client.put("/deployments/web", json={"replicas": replicas})).status_code == 200
                while len(server.store.tables.pods) != replicas or any(not pod.node_name for pod in server.store.tables.pods.values()):
                    await asyncio.sleep(0.01)
                for head in heads:
                    first = await one.ask(head)
                    same(first, await other.ask(head))
                    assert first[0] == 200
                    url = head.split()[1].decode()
                    assert first[2] == (await client.get(url, headers={"x-new": f"{replicas}"})).content, "Sanic says the same"
                assert len(taken) - before == (len(heads) if replicas == 2 else 2 * len(heads))

    play(tmp_path, scenario)


def test_what_is_gone_is_not_found_and_the_connection_goes_on(tmp_path: Path, taken: list[bytes]) -> None:
    async def scenario(server: Server, client: httpx.AsyncClient) -> None:
        await client.post("/deployments", json=WEB)
        async with line(server.url) as one:
            for head in (get("/deployments/web"), get("/deployments/web?stale=true")):
                assert [(await one.ask(head))[0] for _ in range(2)] == [200, 200]
            await client.delete("/deployments/web")
            for head in (get("/deployments/web"), get("/deployments/web?stale=true")):
                assert [(await one.ask(head))[0] for _ in range(2)] == [404, 404]
            await client.post("/deployments", json=WEB)
            assert (await one.ask(get("/deployments/web")))[0] == 200
        metrics = (await client.get("/metrics")).text
        assert 'kago_http_requests_total{method="GET",status="404"} 4.0' in metrics
        assert 'kago_http_request_seconds_count{method="GET"} 9.0' in metrics, "each is counted, once"

    play(tmp_path, scenario)
    assert len(taken) == 4, "two repeated, and two that were not there any more, which are forgotten then"


def test_without_a_leader_a_read_is_refused_and_a_stale_one_answered(tmp_path: Path, taken: list[bytes]) -> None:
    async def scenario(server: Server, client: httpx.AsyncClient) -> None:
        await client.post("/deployments", json=WEB)
        head, stale = get("/deployments/web"), get("/deployments/web?stale=true")
        async with line(server.url) as one:
            for asked in (head, stale):
                await one.ask(asked)
            server.store.log.cut = True  # type: ignore[attr-defined]
            status, lines, body = await one.ask(head)
            assert status == 503 and b"urn:kago:problem:no-leader" in body and b'"instance":"/deployments/web"' in body
            assert b"retry-after: 1" in lines and b"content-type: application/problem+json" in lines
            await asyncio.sleep(0.02)
            status, lines, _ = await one.ask(stale)
            assert status == 200 and b"x-kago-known-leader: false" in lines and b"x-kago-last-contact: 3000" in lines
            server.store.log.cut = False  # type: ignore[attr-defined]
            assert (await one.ask(head))[0] == 200

    play(tmp_path, scenario)
    assert len(taken) == 3


@pytest.mark.parametrize(
    "head",
    [
        get("/deployments/web", 'if-none-match: "0.0"'),
        get("/deployments/web?min_index=1"),
        get("/deployments/web", "content-length: 0"),
        get("/deployments/none"),
        get("/deployments?watc=true"),
        get("/deployments/web", "x-long: " + "x" * 4000),
        get("/deployments/web").replace(b"GET", b"HEAD"),
        get("/cluster"),
    ],
)
def test_what_depends_on_more_than_its_words_goes_the_usual_way(tmp_path: Path, taken: list[bytes], head: bytes) -> None:
    async def scenario(server: Server, client: httpx.AsyncClient) -> None:
        await client.post("/deployments", json=WEB)
        async with line(server.url) as one:
            for _ in range(2):
                one.writer.write(head)
                if head.startswith(b"HEAD"):
                    assert (await one.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
                else:
                    await one.answer()

    play(tmp_path, scenario)
    assert not taken


def test_a_connection_that_is_to_be_closed_is_closed(tmp_path: Path, taken: list[bytes]) -> None:
    async def scenario(server: Server, client: httpx.AsyncClient) -> None:
        await client.post("/deployments", json=WEB)
        for _ in range(2):
            async with line(server.url) as one:
                assert (await one.ask(get("/deployments/web", "connection: close")))[0] == 200
                assert await one.reader.read() == b""

    play(tmp_path, scenario)
    assert not taken


def test_requests_sent_ahead_are_answered_in_their_order(tmp_path: Path, taken: list[bytes]) -> None:
    async def scenario(server: Server, client: httpx.AsyncClient) -> None:
        for name in ("web", "api", "job"):
            await client.post("/deployments", json=WEB | {"name": name})
        async with line(server.url) as one:
            names = ("web", "api", "job", "web", "job")
            for name in names:
                await one.ask(get(f"/deployments/{name}"))
            # Not in one piece: the second comes in while the first is under way, and the body of the last one later still.
            for name in names:
                one.writer.write(get(f"/deployments/{name}"))
                await asyncio.sleep(0)
            one.writer.write(get("/deployments/api", "content-length: 3"))
            await asyncio.sleep(0.05)
            one.writer.write(b"abc" + get("/deployments/web") + get("/deployments/api")[:20])
            await asyncio.sleep(0.05)
            one.writer.write(get("/deployments/api")[20:])
            for name in (*names, "api", "web", "api"):
                status, _, body = await one.answer()
                assert status == 200 and f'"name":"{name}"'.encode() in body

    play(tmp_path, scenario)
    assert taken


def test_a_client_that_hangs_up_is_not_missed(tmp_path: Path, taken: list[bytes]) -> None:
    async def scenario(server: Server, client: httpx.AsyncClient) -> None:
        await client.post("/deployments", json=WEB)
        head = get("/deployments/web")
        async with line(server.url) as one:
            await one.ask(head)
            for _ in range(20):
                async with line(server.url) as other:
                    await other.ask(get("/health"))
                    other.writer.write(head)
            assert (await one.ask(head))[0] == 200

    play(tmp_path, scenario)


def statuses_when_limited(tmp_path: Path, message: bytes) -> list[int]:
    """Of the answers to eight times `message` about a deployment, of a server whose clients may be six requests ahead."""

    async def all_of_it() -> list[int]:
        async with running(tmp_path, Limits(spare_loopback=False, requests_a_second=1, burst=6)) as (server, client):
            await client.post("/deployments", json=WEB)
            async with line(server.url) as one:
                return [(await one.ask(message))[0] for _ in range(8)]

    return asyncio.run(all_of_it())


def test_a_client_may_repeat_itself_no_faster_than_ask(tmp_path: Path, taken: list[bytes]) -> None:
    assert statuses_when_limited(tmp_path, get("/deployments/web")) == [200] * 5 + [429] * 3
    assert len(taken) == 4


def test_the_same_words_from_somebody_else_are_looked_at_anew(tmp_path: Path, taken: list[bytes]) -> None:
    async def scenario(group: Secured) -> None:
        token = await group.token(TokenRole.READ)
        known = get("/deployments", f"authorization: Bearer {token.text}")
        anonymous, own = get("/deployments"), get("/pods?node_name=n1")
        pair = group.office.pair
        agent, other, server = pair(Role.AGENT, "n1"), pair(Role.AGENT, "n2"), pair(Role.SERVER, "s9")
        url = group.urls[0]
        async with line(url, group) as one, line(url, group) as two:
            assert [(await one.ask(known))[0] for _ in range(3)] == [200] * 3
            assert (await one.ask(anonymous))[0] == 401
            assert (await two.ask(known))[0] == 200
            async with line(url, group, agent) as mine:
                assert [(await mine.ask(own))[0] for _ in range(3)] == [200] * 3
            async with line(url, group, other) as theirs:
                assert [(await theirs.ask(own))[0] for _ in range(2)] == [403, 403]
            async with line(url, group, server) as peer:
                assert [(await peer.ask(anonymous))[0] for _ in range(2)] == [200, 200]
            assert (await two.ask(anonymous))[0] == 401, "a server may, nobody else"
            taken.clear()
            assert (await two.ask(known))[0] == 200 and taken == [known]
            assert (await group.ask("DELETE", f"/tokens/{token.id}")).status_code == 200
            assert (await one.ask(known))[0] == 401
            async with asyncio.timeout(2):
                assert await two.reader.read() == b"", "and what it holds open is closed"
        async with line(url, group) as late:
            assert (await late.ask(known))[0] == 401

    play_secured(tmp_path, scenario)


def test_all_is_forgotten_rather_than_too_much_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kago.server.repeats.MAX_HEADS", 10)
    learn, kept = Repeats.learn, []

    def watched(self: Repeats, *answered: Any) -> None:
        learn(self, *answered)
        kept.append(len(self._known))

    monkeypatch.setattr(Repeats, "learn", watched)

    async def scenario(server: Server, client: httpx.AsyncClient) -> None:
        await client.post("/deployments", json=WEB)
        for n in range(35):
            assert (await client.get("/deployments/web", headers={"x-trace": str(n)})).status_code == 200
        assert kept == [*range(1, 11)] * 3 + [*range(1, 7)], "the first is the POST"

    play(tmp_path, scenario)
