"""Whole answers, streams and what comes instead of them, over real connections to a server that says what it is told."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
import pytest

from kago.client.walk import reason
from kago.client.wire import MAX_HEAD_BYTES, MOST_WAITING_BYTES, Wire

SHORT = httpx.Timeout(0.2)
LONG = httpx.Timeout(5.0)
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-a: 1\r\nX-A: 2\r\n\r\nok"


class Scripted:
    """Gives the next answer to each request; closes its connections when the last is given, so an empty last one keeps them open."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.heads: list[str] = []
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while self.answers:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = next((int(line.split(": ")[1]) for line in head.split("\r\n") if line.startswith("content-length")), 0)
                self.heads.append(head + (await reader.readexactly(length)).decode())
                writer.write(self.answers.pop(0))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def serving(script: Scripted) -> AsyncIterator[str]:
    server = await asyncio.start_server(script.serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.close()


def told(story: Callable[[Wire, str], Awaitable[None]], *answers: bytes, token: str = "") -> Scripted:
    """What happens to `story` where a server answers so."""
    script = Scripted(*answers)

    async def run() -> None:
        wire = Wire(token=token)
        try:
            async with asyncio.timeout(10), serving(script) as url:
                await story(wire, url)
        finally:
            await wire.aclose()

    asyncio.run(run())
    return script


async def ask(wire: Wire, url: str) -> bytes:
    return (await wire.request("GET", url, params=None, content=None, headers=None, timeout=LONG)).content


def test_calls_share_a_connection_and_say_what_they_were_given() -> None:
    async def story(wire: Wire, url: str) -> None:
        answer = await wire.request("PUT", f"{url}/a%2Fb", params={"q": "x y"}, content=b"{}", headers={"k": "v"}, timeout=LONG)
        assert (answer.status_code, answer.is_success, answer.content) == (200, True, b"ok")
        assert answer.headers["x-a"] == "1, 2"
        await wire.request("DELETE", f"{url}/é", params=None, content=None, headers=None, timeout=LONG)

    script = told(story, OK, OK, b"", token="secret")
    assert script.connections == 1
    first, second = script.heads
    assert first.startswith("PUT /a%2Fb?q=x+y HTTP/1.1\r\nhost: 127.0.0.1:")
    assert "\r\nk: v\r\ncontent-length: 2\r\n\r\n{}" in first
    assert "secret" not in first + second, "a token goes over https alone"
    assert second.startswith("DELETE /%C3%A9 HTTP/1.1\r\n")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 100 Continue\r\nx-b: 1\r\n\r\n" + OK,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n",
        OK.replace(b"x-a: 1", b"content-encoding: identity"),
    ],
    ids=["after 100", "in chunks", "as it is"],
)
def test_an_answer_in_any_form_leaves_the_connection_usable(answer: bytes) -> None:
    async def story(wire: Wire, url: str) -> None:
        assert [await ask(wire, f"{url}/"), await ask(wire, f"{url}/")] == [b"ok", b"ok"]

    assert told(story, answer, OK, b"").connections == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
        OK + b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfalse",
        OK + b"rubbish",
    ],
    ids=["closed", "HTTP/1.0", "two answers", "more than an answer"],
)
def test_a_connection_that_may_not_be_used_again_is_not(answer: bytes) -> None:
    async def story(wire: Wire, url: str) -> None:
        assert [await ask(wire, f"{url}/"), await ask(wire, f"{url}/")] == [b"ok", b"ok"]

    assert told(story, answer, OK, b"").connections == 2


def test_a_connection_that_was_closed_meanwhile_is_not_used_again() -> None:
    async def story(wire: Wire, url: str) -> None:
        await ask(wire, f"{url}/")
        await asyncio.sleep(0.05)
        with pytest.raises(httpx.RemoteProtocolError):  # the script is at its end: a new connection is closed at once
            await ask(wire, f"{url}/")

    assert told(story, OK).connections == 2


def test_an_answer_without_a_length_ends_with_its_connection() -> None:
    async def story(wire: Wire, url: str) -> None:
        assert await ask(wire, f"{url}/") == b"okok"

    told(story, b"HTTP/1.1 200 OK\r\n\r\nokok")


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (b"", httpx.RemoteProtocolError, "closed the connection without a word"),
        (OK[:-1], httpx.RemoteProtocolError, "amid its answer"),
        (b"\x15\x03\x01\x00", httpx.RemoteProtocolError, "not an answer in HTTP/1.1"),
        (b"HTTP/1.1 101 x\r\nupgrade: y\r\nconnection: upgrade\r\n\r\n", httpx.RemoteProtocolError, "not an answer in HTTP/1.1"),
        (b"HTTP/1.1 200 OK\r\na: " + b"b" * (MAX_HEAD_BYTES + 100_000), httpx.RemoteProtocolError, "the head of its answer"),
        (OK.replace(b"x-a: 1", b"content-encoding: gzip"), httpx.DecodingError, "packed"),
    ],
    ids=["nothing", "half", "no HTTP", "another protocol", "a head without end", "packed"],
)
def test_what_is_no_answer_is_told_in_words(answer: bytes, error: type[httpx.RequestError], words: str) -> None:
    async def called(wire: Wire, url: str) -> None:
        with pytest.raises(error) as caught:
            await ask(wire, f"{url}/")
        assert words in reason(caught.value)

    async def streamed(wire: Wire, url: str) -> None:
        with pytest.raises(error) as caught:
            async with wire.stream("GET", f"{url}/", params=None, timeout=LONG) as answer:
                await answer.aread()
        assert words in reason(caught.value)

    told(called, answer)
    told(streamed, answer)


def test_nobody_there_and_nobody_who_answers() -> None:
    async def story(wire: Wire, url: str) -> None:
        async with asyncio.timeout(5):
            with pytest.raises(httpx.ConnectError) as refused:
                await ask(wire, "http://localhost:1/")
            assert reason(refused.value) == "connection refused"
            with pytest.raises(httpx.ConnectError):
                await ask(wire, "http://no-such-host.invalid/")
            with pytest.raises(httpx.ReadTimeout):
                async with wire.stream("GET", f"{url}/", params=None, timeout=SHORT):
                    pass

    told(story, b"HTTP/1.1 100 Continue\r\n\r\n", b"")


def test_a_call_that_is_given_up_takes_its_connection_with_it() -> None:
    """Else the late answer would be taken for that of the next call."""

    async def story(wire: Wire, url: str) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await ask(wire, f"{url}/")
        assert await ask(wire, f"{url}/") == b"ok"

    assert told(story, OK[:-1], OK, b"").connections == 2


def test_a_stream_is_read_as_it_comes_and_its_silence_ends_it() -> None:
    async def story(wire: Wire, url: str) -> None:
        async with wire.stream("GET", f"{url}/", params={"a": "b"}, timeout=SHORT) as answer:
            assert answer.is_success
            pieces = answer.aiter_bytes()
            assert await anext(pieces) == b"ab"
            with pytest.raises(httpx.ReadTimeout):
                await anext(pieces)

    script = told(story, b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n", b"")
    assert script.heads[0].startswith("GET /?a=b HTTP/1.1\r\n")


def test_a_reader_that_is_slow_makes_the_server_wait() -> None:
    size = 40 * MOST_WAITING_BYTES
    taken: list[int] = []

    async def story(wire: Wire, url: str) -> None:
        async with wire.stream("GET", f"{url}/", params=None, timeout=LONG) as answer:
            await asyncio.sleep(0.1)
            async for piece in answer.aiter_bytes():
                taken.append(len(piece))

    told(story, b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size + b"x" * size)
    assert sum(taken) == size
    assert taken[0] < 2 * MOST_WAITING_BYTES
