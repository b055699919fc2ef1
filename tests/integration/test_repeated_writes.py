"""Writes whose head comes again byte for byte: they go straight to their route, and in nothing else than through Sanic."""

import asyncio
import json
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest

from kago.core.model.token import TokenRole
from kago.security.subject import Role
from kago.server.app import Server
from tests.integration.secured import Secured
from tests.integration.test_api import WEB, play
from tests.integration.test_repeats import Line, get, line, same, statuses_when_limited, watched
from tests.integration.test_secured_api import play as play_secured

STILL = WEB | {"replicas": 0}
"""No controller changes it between two requests."""


def put(path: str, body: object, *headers: str, method: str = "PUT", content_type: str = "application/json") -> bytes:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = get(path, f"content-type: {content_type}", f"content-length: {len(content)}", *headers)
    return head.replace(b"GET", method.encode(), 1) + content


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The heads of writes that went to their routes without Sanic."""
    return watched(monkeypatch, b"PUT ", b"POST ")


def test_a_write_come_again_does_what_it_says_and_answers_as_before(tmp_path: Path, written: list[bytes]) -> None:
    async def scenario(server: Server, client: httpx.AsyncClient) -> None:
        await client.post("/deployments", json=STILL)
        async with line(server.url) as one, line(server.url) as other:
            for n in range(3):
                asked = [put("/deployments/web", {"env": {"N": f"{n}{who}"}}) for who in range(2)]
                first, second = await one.ask(asked[0]), await other.ask(asked[1])
                for who, (status, lines, body) in enumerate((first, second)):
                    assert status == 200 and json.loads(body)["env"] == {"N": f"{n}{who}"} and b"x-kago-changed: true" in lines
                    assert {b"etag", b"date", b"x-kago-index"} <= {a.partition(b":")[0] for a in lines}
                status, lines, again = await one.ask(asked[1])
                assert (status, again) == (200, second[2]) and b"x-kago-changed: false" in lines
                assert (await client.get("/deployments/web")).content == second[2]
            # a head of its own where the length is another
            assert json.loads((await one.ask(put("/deployments/web", {"replicas": 12})))[2])["replicas"] == 12
        metrics = (await client.get("/metrics")).text
        assert 'kago_http_requests_total{method="PUT",status="200"} 10.0' in metrics
        assert 'kago_http_request_seconds_count{method="PUT"} 10.0' in metrics, "each is counted, once"

    play(tmp_path, scenario)
    assert len(written) == 8, "all but the first of each head"


REFUSED = (
    (b"{", 400, b"not JSON"),
    (b'{"a":1,"a":2}', 400, b"stands twice"),
    (b'{"replica":3}', 422, b"did you mean"),
    (b'{"image":""}', 422, b"/image"),
    (b'{"name":"api"}', 422, b"cannot be renamed"),
)


@pytest.mark.parametrize(("body", "status", "words"), REFUSED)
def test_a_write_come_again_is_refused_as_before(tmp_path: Path, written: list[bytes], body: bytes, status: int, words: bytes) -> None:
    async def scenario(server: Server, client: httpx.AsyncClient) -> None:
        await client.post("/deployments", json=STILL)
        fine = b'{"replicas":0}'
        size = max(len(fine), len(body))
        async with line(server.url) as one, line(server.url) as fresh:
            assert (await one.ask(put("/deployments/web", fine.ljust(size))))[0] == 200
            refused = await one.ask(put("/deployments/web", body.ljust(size)))
            assert refused[0] == status and words in refused[2] and b"content-type: application/problem+json" in refused[1]
            anew = await fresh.ask(put("/deployments/web", body.ljust(size), "x-new: 1"))
            for answer in (refused, anew):  # the cluster's index moves by itself
                answer[1][:] = [one for one in answer[1] if not one.startswith(b"x-kago-index:")]
            same(refused, anew)
            assert (await one.ask(put("/deployments/web", fine.ljust(size))))[0] == 200
            await client.delete("/deployments/web")
            assert (await one.ask(put("/deployments/web", fine.ljust(size))))[0] == 404
            await client.post("/deployments", json=STILL)
            assert (await one.ask(put("/deployments/web", fine.ljust(size), 'if-match: "1.1"')))[0] == 412

    play(tmp_path, scenario)
    assert [head.split()[1] for head in written if head.startswith(b"PUT")] == [b"/deployments/web"] * 3


def test_without_a_leader_or_room_a_write_come_again_is_refused(tmp_path: Path, written: list[bytes]) -> None:
    async def scenario(server: Server, client: httpx.AsyncClient) -> None:
        await client.post("/deployments", json=STILL)
        async with line(server.url) as one:
            assert (await one.ask(put("/deployments/web", {"replicas": 1})))[0] == 200
            server.store.log.cut = True  # type: ignore[attr-defined]
            status, lines, body = await one.ask(put("/deployments/web", {"replicas": 2}))
            assert status == 503 and b"retry-after: 1" in lines and b'"instance":"/deployments/web"' in body
            server.store.log.cut = False  # type: ignore[attr-defined]
            server.checks._low = True
            status, _, body = await one.ask(put("/deployments/web", {"replicas": 3}))
            assert status == 503 and b"urn:kago:problem:low-space" in body
            server.checks._low = False
            assert json.loads((await client.get("/deployments/web")).content)["replicas"] == 1
            assert (await one.ask(put("/deployments/web", {"replicas": 4})))[0] == 200

    play(tmp_path, scenario)
    assert len(written) == 3


def test_a_bug_in_a_route_is_called_one_and_the_connection_goes_on(
    tmp_path: Path, written: list[bytes], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(server: Server, client: httpx.AsyncClient) -> None:
        await client.post("/deployments", json=STILL)
        async with line(server.url) as one:
            assert (await one.ask(put("/deployments/web", {"replicas": 1})))[0] == 200
            with monkeypatch.context() as broken:
                broken.setattr(server.store, "submit", None)
                status, _, body = await one.ask(put("/deployments/web", {"replicas": 2}))
            assert status == 500 and b"has a bug here" in body and "bug: PUT /deployments/web" in caplog.text
            assert (await one.ask(put("/deployments/web", {"replicas": 3})))[0] == 200

    play(tmp_path, scenario)
    assert len(written) == 2


@pytest.mark.parametrize(
    "message",
    [
        put("/deployments/web", {"replicas": 1}, "idempotency-key: a"),
        put("/deployments/web", {"replicas": 1}, "date: Mon, 30 Nov 2026 22:00:00 GMT"),
        put("/deployments/web", {"replicas": 1}, "expect: 100-continue"),
        put("/deployments/web", {"replicas": 1}, "x-long: " + "x" * 4000),
        put("/deployments/none", {"replicas": 1}),
        put("/deployments/web", {"replicas": 1}, content_type="text/plain"),
        get("/deployments/web", "content-type: application/json", "transfer-encoding: chunked").replace(b"GET", b"PUT")
        + b'e\r\n{"replicas":1}\r\n0\r\n\r\n',
        get("/deployments/web").replace(b"GET", b"DELETE"),
    ],
)
def test_writes_that_are_not_learnt(tmp_path: Path, written: list[bytes], message: bytes) -> None:
    async def scenario(server: Server, client: httpx.AsyncClient) -> None:
        await client.post("/deployments", json=STILL)
        async with line(server.url) as one:
            for _ in range(2):
                one.writer.write(message)
                status, _, _ = await one.answer()
                if status == 100:
                    await one.answer()

    play(tmp_path, scenario)
    assert not written


def test_writes_in_pieces_and_sent_ahead_are_done_once_each_in_their_order(tmp_path: Path, written: list[bytes]) -> None:
    async def scenario(server: Server, client: httpx.AsyncClient) -> None:
        await client.post("/deployments", json=STILL)
        await client.post("/deployments", json=STILL | {"name": "api"})
        messages = [put(f"/deployments/{'api' if n % 3 == 0 else 'web'}", {"env": {"N": f"{n:03d}"}}) for n in range(60)]
        async with line(server.url) as one:
            for message in (put("/deployments/web", {"env": {"N": "abc"}}), put("/deployments/api", {"env": {"N": "abc"}})):
                assert (await one.ask(message))[0] == 200
            stream = b"".join(messages)
            # Cut in every way: single ones, in two pieces, several at once, a head alone.
            cuts = sorted({*range(0, len(stream), 97), *(stream.find(b"\r\n\r\n", start) + 4 for start in range(0, len(stream) // 2, 400))})
            sending = asyncio.create_task(send(one, [stream[a:b] for a, b in zip(cuts, [*cuts[1:], len(stream)], strict=True)]))
            for n in range(60):
                status, lines, body = await one.answer()
                assert status == 200 and json.loads(body)["env"] == {"N": f"{n:03d}"} and b"x-kago-changed: true" in lines
            await sending
            for n, message in enumerate(messages):
                if n % 7 == 0:
                    await asyncio.sleep(0.01)
                one.writer.write(message)
            for n in range(60):
                assert json.loads((await one.answer())[2])["env"] == {"N": f"{n:03d}"}
        assert 'kago_http_requests_total{method="PUT",status="200"} 122.0' in (await client.get("/metrics")).text

    play(tmp_path, scenario)
    assert written


async def send(one: Line, pieces: list[bytes]) -> None:
    for piece in pieces:
        one.writer.write(piece)
        await asyncio.sleep(0.001)


def test_a_write_of_somebody_who_hung_up_is_done(tmp_path: Path, written: list[bytes]) -> None:
    async def scenario(server: Server, client: httpx.AsyncClient) -> None:
        await client.post("/deployments", json=STILL)
        async with line(server.url) as one:
            await one.ask(put("/deployments/web", {"env": {"N": "a"}}))
        for n in range(10):
            async with line(server.url) as other:
                await other.ask(get("/health"))
                other.writer.write(put("/deployments/web", {"env": {"N": f"{n}"}}))
            async with asyncio.timeout(5):
                while (await client.get("/deployments/web")).json()["env"] != {"N": f"{n}"}:
                    await asyncio.sleep(0.01)

    play(tmp_path, scenario)
    assert len(written) == 10


def test_a_writer_may_repeat_itself_no_faster_than_ask(tmp_path: Path, written: list[bytes]) -> None:
    assert statuses_when_limited(tmp_path, put("/deployments/web", {"replicas": 1})) == [200] * 5 + [429] * 3
    assert len(written) == 4


def test_many_writes_at_once_have_their_turns(tmp_path: Path, written: list[bytes]) -> None:
    async def scenario(server: Server, client: httpx.AsyncClient) -> None:
        await client.post("/deployments", json=STILL)
        async with AsyncExitStack() as stack:
            lines = [await stack.enter_async_context(line(server.url)) for _ in range(50)]
            message = put("/deployments/web", {"replicas": 1})
            await lines[0].ask(message)
            for one in lines:
                await one.ask(get("/health"))
            for _ in range(3):
                assert {answer[0] for answer in await asyncio.gather(*(one.ask(message) for one in lines))} == {200}

    play(tmp_path, scenario)
    assert len(written) == 150


def test_the_same_write_from_somebody_else_is_looked_at_anew(tmp_path: Path, written: list[bytes]) -> None:
    async def scenario(group: Secured) -> None:
        token, reader = await group.token(TokenRole.WRITE), await group.token(TokenRole.READ)
        url = group.urls[0]
        made = await group.ask("POST", "/deployments", STILL)
        assert made.status_code == 201
        known, plain = (put("/deployments/web", {"replicas": 0}, *more) for more in ([f"authorization: Bearer {token.text}"], []))
        beat = put("/nodes/n1/heartbeat", {"incarnation": 1, "seq": 1, "pods": []}, method="POST")
        async with line(url, group) as one, line(url, group) as two, line(url, group, group.office.pair(Role.AGENT, "n2")) as agent:
            assert [(await one.ask(known))[0] for _ in range(3)] == [200] * 3
            assert [(await one.ask(plain))[0] for _ in range(2)] == [401] * 2
            assert (await agent.ask(plain))[0] == (await agent.ask(known))[0] == 403, "an agent is an agent, whatever it shows"
            assert (await agent.ask(beat))[0] == 403
            assert (await two.ask(known.replace(token.text.encode(), reader.text.encode())))[0] == 403
            written.clear()
            assert [(await who.ask(known))[0] for who in (two, one)] == [200] * 2
            assert len(written) == 1, "learnt over one connection, for a refusal makes it forgotten, and known over another"
            assert (await group.ask("DELETE", f"/tokens/{token.id}")).status_code == 200
            assert (await one.ask(known))[0] == 401

    play_secured(tmp_path, scenario)
