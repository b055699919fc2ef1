"""Rubbish for those who ask: what a server, or something in between, tells agents and whoever follows; and for an agent's own port."""

import asyncio
import logging
import re
import tempfile
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from random import Random
from typing import Any

import httpx
import msgspec

from kago.agent.masters import Masters, Superseded
from kago.agent.notes import Notebook
from kago.agent.port import Health, serve_port
from kago.agent.worker import Worker
from kago.client.client import Client
from kago.client.errors import ClientError
from kago.clock import SystemClock
from kago.core.model.deployment import Deployment
from kago.core.model.node import Node
from kago.core.model.pod import Pod, PodStatus
from kago.core.model.report import HeartbeatReply, PodReport, Registration, RegistrationReply, WatchEvent
from kago.core.model.resources import Resources
from tests.fuzz.mutations import INTERESTING, WORDS, Case, mutated, nested, shaped

PROBLEMS = ("stale-incarnation", "removed", "conflict", "not-found", "no-leader", "index-too-old", "x")
STATUSES = (200, 200, 200, 200, 200, 200, 204, 301, 400, 403, 404, 409, 410, 422, 429, 500, 503, 999)
_HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"retry-after", b"nan"), (b"retry-after", b"inf"), (b"retry-after", b"-1e999"), (b"retry-after", b"Wed, 21 Oct 2015 07:28:00 GMT"),
    (b"date", b"Wed, 21 Oct 0001 07:28:00 GMT"), (b"date", b"x"),
    (b"date", b"Thu, 01 Jan 99999 00:00:00 -0000"), (b"date", b"1 Jan 1 0:0 -0000"),
    (b"x-kago-index", b"9" * 400), (b"x-kago-index", b"\xb2"), (b"x-kago-servers", b"http://[::1"),
    (b"x-kago-servers", b"\xff,,ftp://x,a:b:c"),
    (b"x-kago-servers", b"http://" + b"a" * 70000), (b"x-kago-servers", "http://\u2100".encode()), (b"content-encoding", b"gzip"),
    (b"content-encoding", b"deflate, br"), (b"location", b"http://evil/"), (b"content-type", b"text/html; charset=nonsense"),
    (b"set-cookie", b"a=b; domain=.; expires=x"), (b"transfer-encoding", b"chunked"), (b"content-length", b"-1"), (b"link", b"<" * 5000),
)
_LIKELY: dict[str, Any] = {
    "node_name": ("n1", "n1", "n2"), "type": ("put", "put", "removed", "synced", "heartbeat", "relist", "error", "x"),
    "name": ("n1", "web-1"), "id": ("p1", "p2", "p3"), "desired": ("running", "stopped"), "cluster_id": ("c1",),
    "epoch": (1, 1, 2), "index": (1, 2, 3, 4, 5, 6),
    "servers": (["http://b:1"], [], ["x"], ["http://["], ["https://c:1"], ["ftp://x"], ["http://\u2100"]), "heartbeat_s": (0.01, 0.0, 1.0),
    "stop_grace_s": (1.0,), "image": ("x",),
}
MAX_STEPS = 40
"""Of one conversation."""


class Liar(httpx.AsyncBaseTransport):
    """Any server of any list: each answer is the next dice."""

    def __init__(self, chance: Random) -> None:
        self.chance = chance
        self.asked = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked += 1
        chance = self.chance
        if chance.random() < 0.05:
            kind = chance.choice((httpx.ConnectError, httpx.ReadTimeout, httpx.RemoteProtocolError, httpx.ReadError))
            raise kind("as told", request=request)
        status = chance.choice(STATUSES)
        content = self._content(request.url.path, status, stream="watch" in request.url.query.decode())
        if chance.random() < 0.2:
            content = mutated(chance, content)
        headers = chance.sample(_HEADERS, 1) if chance.random() < 0.2 else []
        return httpx.Response(status, headers=headers, stream=_Pieces(chance, content), request=request)

    def _content(self, path: str, status: int, *, stream: bool) -> bytes:
        chance = self.chance
        if status >= 400 and chance.random() < 0.9:
            problem = {"type": f"urn:kago:problem:{chance.choice(PROBLEMS)}", "detail": chance.choice(WORDS), "status": status}
            return msgspec.json.encode(problem)
        if stream:
            return b"\n".join(_line(chance) for _ in range(chance.randrange(8))) + chance.choice((b"\n", b"", b"\r\n\r\n"))
        kind = RegistrationReply if path.endswith("/register") else HeartbeatReply if path.endswith("/heartbeat") else None
        if kind is not None:
            return msgspec.json.encode(shaped(chance, kind, WORDS, _LIKELY))
        things = {"/pods": Pod, "/nodes": Node, "/deployments": Deployment}
        return msgspec.json.encode([shaped(chance, things.get(path, Pod), WORDS, _LIKELY) for _ in range(chance.randrange(3))])


class _Pieces(httpx.AsyncByteStream):
    def __init__(self, chance: Random, content: bytes) -> None:
        self._chance, self._content = chance, content

    async def __aiter__(self) -> AsyncIterator[bytes]:
        rest = self._content
        while rest:
            size = self._chance.randrange(1, 3000)
            yield rest[:size]
            rest = rest[size:]
        if self._chance.random() < 0.1:
            raise httpx.ReadError("cut off")


def _line(chance: Random) -> bytes:
    dice = chance.random()
    if dice < 0.03:
        return nested(chance, b"[", b"]")
    if dice < 0.1:
        return chance.choice((b"", b"\xff\xfe", b"null", b"[]", b"{}", b"data: x", *INTERESTING))
    event = shaped(chance, WatchEvent, WORDS, _LIKELY)
    if isinstance(event, dict):
        kind = chance.choice((Pod, Pod, Pod, Node, Deployment))
        event = {**event, "object": shaped(chance, kind, WORDS, _LIKELY)} if chance.random() < 0.8 else event
        if event.get("type") == "error":
            status = chance.choice((410, 503, 400, "x", None, -1, 2**63))
            event["object"] = {"status": status, "type": "urn:x", "detail": chance.choice(WORDS)}
    return msgspec.json.encode(event)


def watches(chance: Random) -> Case:
    """`client.watch`, `client.follow` and the lists beside them: events, or one of the client's own errors, and no waiting without end."""
    loop = asyncio.new_event_loop()

    async def once(chance: Random) -> str:
        liar = Liar(chance)
        async with Client(["http://a:1", "http://b:1"], http=httpx.AsyncClient(transport=liar), timeout_s=0.01) as client:
            try:
                match chance.randrange(4):
                    case 0:
                        await (client.list(Pod) if chance.random() < 0.5 else client.list(Node))
                    case 1:
                        async with aclosing(client.watch("/pods", {})) as events:
                            async for event in events:
                                assert isinstance(event, WatchEvent)
                    case _:
                        async with asyncio.timeout(0.01), aclosing(client.follow("/pods", {})) as events:  # type: ignore[type-var]
                            async for event in events:
                                assert isinstance(event, WatchEvent)
            except ClientError as error:
                assert "Traceback" not in str(error)
                return "refused"
            except TimeoutError:
                return "followed"
            assert client.server_now() > 0 and client.servers
        return "taken"

    def case(chance: Random) -> str:
        return loop.run_until_complete(once(chance))

    return case


class masters:
    """An agent that is lied to: it never stumbles, believes no pod of another node, and forgets neither who it is nor whom to ask."""

    def __init__(self, chance: Random) -> None:
        self._loop = asyncio.new_event_loop()
        self._directory = tempfile.TemporaryDirectory(prefix="kago-fuzz-")
        self._notebook = Notebook(Path(self._directory.name))
        self._notebook.notes = msgspec.structs.replace(self._notebook.notes, cluster_id="c1")
        self._clean = self._notebook.notes

    def __call__(self, chance: Random) -> str:
        return self._loop.run_until_complete(self._once(chance))

    async def _once(self, chance: Random) -> str:
        self._notebook.notes, clock = self._clean, SystemClock()
        registration = Registration(name="n1", id=self._clean.agent_id, incarnation=1, address="x", port=1, capacity=Resources())
        liar = Liar(chance)
        worker = Worker(self._notebook, {}, "n1", clock)
        worker.said = {"p1": PodReport(pod_id="p1", status=PodStatus.RUNNING, ready=True)}
        async with Client(["http://a:1", "http://b:1"], http=httpx.AsyncClient(transport=liar), clock=clock, timeout_s=0.01) as client:
            told = Masters(registration, self._notebook, worker, clock, telling=client, watching=client, dice=chance)
            outcome = "followed"
            try:
                async with asyncio.timeout(chance.choice((0.003, 0.02))), asyncio.TaskGroup() as tasks:
                    tasks.create_task(told.tell())
                    tasks.create_task(told.watch())
            except* TimeoutError:
                pass
            except* Superseded:
                outcome = "stopped"
            assert client.servers
        notes = self._notebook.notes
        assert notes.agent_id == self._clean.agent_id and notes.cluster_id == "c1" and notes.incarnation == self._clean.incarnation
        assert all(pod.node_name == "n1" for pod in worker.pods)
        msgspec.json.decode(msgspec.json.encode(notes), type=type(notes))  # what is noted can be read again
        return outcome

    def close(self) -> None:
        self._notebook.close()
        self._directory.cleanup()
        self._loop.close()


class ports:
    """The agent's own port: whatever comes it answers in HTTP or hangs up, and nothing is left of it."""

    def __init__(self, chance: Random) -> None:
        self._loop = asyncio.new_event_loop()
        self._bugs: list[dict[str, Any]] = []
        self._loop.set_exception_handler(lambda _, context: self._bugs.append(context))
        health = Health(node="n1", node_id="a", incarnation=1, cluster_id="c", master_heard=True)
        self._server = self._loop.run_until_complete(serve_port("127.0.0.1", 0, lambda: health, tuple))
        self._address = self._server.sockets[0].getsockname()
        logging.getLogger("asyncio").addHandler(logging.NullHandler())

    def __call__(self, chance: Random) -> str:
        return self._loop.run_until_complete(self._once(_asked(chance), chance))

    async def _once(self, request: bytes, chance: Random) -> str:
        reader, writer = await asyncio.open_connection(*self._address)
        answer = b""
        try:
            half = chance.randrange(len(request) + 1)
            writer.write(request[:half])
            await asyncio.sleep(0)
            writer.write(request[half:])
            if chance.random() < 0.1:
                writer.transport.abort()
                return "cut off"
            if b"\r\n\r\n" not in request:
                writer.write_eof()
            async with asyncio.timeout(4):
                answer = await reader.read(1 << 17)
        except ConnectionError:
            pass  # it hung up while we still spoke
        finally:
            writer.transport.abort()
        assert not self._bugs, self._bugs
        if not answer:
            return "unanswered"
        head, _, body = answer.partition(b"\r\n\r\n")
        status = re.fullmatch(rb"HTTP/1\.1 (\d\d\d) [A-Za-z ]+", head.split(b"\r\n")[0])
        assert status is not None and int(status[1]) in (200, 400, 404, 405, 503), answer[:300]
        content = msgspec.json.decode(body)
        assert int(status[1]) == 200 or set(content) == {"error"}
        return "taken" if int(status[1]) == 200 else "refused"

    def close(self) -> None:
        self._server.close()
        self._loop.run_until_complete(self._server.wait_closed())
        self._loop.close()


def _asked(chance: Random) -> bytes:
    method = chance.choice((b"GET", b"GET", b"GET", b"POST", b"HEAD", b"get", b"\xff", b"", b"G" * 20_000))
    path = chance.choice((b"/health", b"/pods", b"/pods?x=1", b"/", b"*", b"//health", b"/%2e%2e/x", b"\xe9", b"/" + b"a" * 17_000))
    version = chance.choice((b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2", b"HTTP/1.", b"", b"HTTP/1.1 x"))
    lines = [b" ".join((method, path, version)), *(b"x: " + chance.choice(WORDS).encode() for _ in range(chance.randrange(3)))]
    request = b"\r\n".join(lines) + b"\r\n\r\n"
    return mutated(chance, request) if chance.random() < 0.4 else request
