"""What no well-behaved client sends, written to the socket byte by byte: refused cleanly, never a 500, and the server serves on."""

import asyncio
import logging
from pathlib import Path

import httpx
import pytest

from kago.server.app import Server
from tests.integration.test_api import WEB, assert_problem, eventually, play

POST = b"POST /deployments HTTP/1.1\r\nContent-Type: application/json\r\n"
RUBBISH = {
    "a TLS hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) + b"\r\n\r\n", b" 400 "),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b" 400 "),
    "an address that cannot be parsed": (b"GET http://%zz:99999999/ HTTP/1.1\r\nHost: x\r\n\r\n", b" 400 "),
    "the same under the name of Sanic's own empty request": (b"NONE :/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b" 404 "),
    "bytes in the address": (b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n", b" 400 "),
    "bytes in the method": (b"\xffGET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b" 405 "),
    "bytes in a header": (b"DELETE /deployments/x HTTP/1.1\r\nIf-Match: \xff\r\nConnection: close\r\n\r\n", b" 412 "),
    "an unknown method": (b"FOO /deployments HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b" 405 "),
    "a head of 20 KB": (b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20_000 + b"\r\n\r\n", b" 413 "),
    "a header without a colon": (b"GET /health HTTP/1.1\r\nHost x\r\n\r\n", b" 400 "),
    "two lengths": (POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b" 400 "),
    "a negative length": (POST + b"Content-Length: -5\r\n\r\n", b" 400 "),
    "a negative chunk": (POST + b"Transfer-Encoding: chunked\r\n\r\n-5\r\nabc\r\n", b" 400 "),
    "an encoding in the encoding": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", b" 400 "),
    "an expectation": (POST + b"Expect: 200-nice\r\nContent-Length: 2\r\n\r\n{}", b" 417 "),
    "dots": (b"GET /deployments/%2e%2e/pods HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b" 404 "),
    "two slashes": (b"GET //deployments HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b" 404 "),
    "a NUL in a name": (b"GET /deployments/a%00 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b" 404 "),
    "a slash in a name": (b"GET /deployments/a%2Fb HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b" 404 "),
}


async def exchange(server: Server, sent: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rpartition(":")[2]))
    writer.write(sent)
    answer = b""
    async with asyncio.timeout(5):
        try:
            answer = await reader.read()
        except ConnectionError:
            return answer
        finally:
            writer.close()
    return answer


def test_rubbish_is_refused_without_a_traceback(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(server: Server, client: httpx.AsyncClient) -> None:
        index = server.store.tables.index
        for what, (sent, status) in RUBBISH.items():
            answer = await exchange(server, sent)
            head, _, body = answer.partition(b"\r\n\r\n")
            assert status in head.split(b"\r\n")[0], (what, answer)
            assert b"application/problem+json" in head and b"x-kago-index" in head and b'"error"' in body, (what, answer)
        assert (await client.get("/health")).status_code == 200
        assert server.store.tables.index == index

    with caplog.at_level(logging.ERROR):
        play(tmp_path, scenario)
    assert not [record for record in caplog.records if record.exc_info]


def test_head_and_overencoded_paths(tmp_path: Path) -> None:
    async def scenario(server: Server, client: httpx.AsyncClient) -> None:
        await client.post("/deployments", json=WEB)
        head = await client.head("/deployments/web")
        assert head.status_code == 200 and head.content == b"" and int(head.headers["content-length"]) > 100
        assert (await client.head("/pods?watch=true")).status_code == 200
        assert (await client.head("/deployments/none")).status_code == 404
        answer = await exchange(server, b"GET /deployments/%77eb HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 ")

    play(tmp_path, scenario)


def test_parameters_are_read_strictly(tmp_path: Path) -> None:
    async def scenario(server: Server, client: httpx.AsyncClient) -> None:
        await client.post("/deployments", json=WEB | {"labels": {"tier": "front"}})
        assert "deployment_name" in assert_problem(await client.get("/pods?deployment=web"), 400, "bad-request")["detail"]
        assert_problem(await client.delete("/deployments/web?dryrun=true"), 400, "bad-request")
        assert (await client.get("/deployments?stale")).status_code == 200
        for selector, names in (("tier=front", ["web"]), ("tier==front", ["web"]), ("tier!=front", []), ("tier!=back", ["web"])):
            found = await client.get("/deployments", params={"selector": selector})
            assert [deployment["name"] for deployment in found.json()] == names
        assert_problem(await client.get(f"/pods?watch=true&index={10**9}"), 410, "index-too-old")

    play(tmp_path, scenario)


def test_a_repeated_post_is_answered_as_the_first_even_when_all_has_changed(tmp_path: Path) -> None:
    async def scenario(server: Server, client: httpx.AsyncClient) -> None:
        key = {"idempotency-key": "once"}
        first = await client.post("/deployments", json=WEB, headers=key)
        await client.put("/deployments/web", json={"replicas": 9})
        again = await client.post("/deployments", json=WEB, headers=key)
        assert (again.status_code, again.content, again.headers["etag"]) == (201, first.content, first.headers["etag"])
        await client.delete("/deployments/web")
        assert (await client.post("/deployments/", json=WEB, headers=key)).content == first.content
        assert (await client.get("/deployments/web")).status_code == 404

    play(tmp_path, scenario)


def test_watchers_that_hang_up_leave_nothing_behind(tmp_path: Path) -> None:
    async def scenario(server: Server, client: httpx.AsyncClient) -> None:
        for _ in range(5):
            async with client.stream("GET", "/pods?watch=true") as watch:
                async for _line in watch.aiter_lines():
                    break

        async def none_left() -> bool:
            return server.store.feed.watchers == 0

        await eventually(none_left)

    play(tmp_path, scenario)
