"""Rubbish for the API of a real server: bytes on its socket, and requests made from its own OpenAPI document (by schemathesis).

Whatever comes: no answer of 500, no traceback to anybody, a refusal is a problem document and changes nothing, the server serves on.
"""

import asyncio
import itertools
import logging
import re
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import msgspec
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

from kago.core.model.cluster import LeaderRequest, MemberRequest
from kago.core.model.deployment import DeploymentPatch, DeploymentSpec
from kago.core.model.report import Heartbeat, Registration
from kago.core.model.token import TokenRole
from kago.security.subject import Role
from kago.server.gate import Limits
from tests.fuzz.mutations import WORDS, mutated, nested, shaped
from tests.integration.secured import Secured, secured
from tests.integration.test_api import running

T = TypeVar("T")
OPERATIONS = 19
"""Of an unsecured server."""
QUIET_S = 0.05
"""A server that has said nothing for so long after an answer waits for more."""
FIRST_S = 0.3
"""And after no answer at all."""
ASK_EVERY = 100
_BODIES = (DeploymentSpec, DeploymentPatch, Registration, Heartbeat, MemberRequest, LeaderRequest)
_PATHS = (
    "/deployments", "/deployments/web", "/pods", "/pods/web-1", "/nodes", "/nodes/n1", "/nodes/register", "/nodes/n1/heartbeat",
    "/cluster", "/cluster/members", "/cluster/members/x", "/cluster/leader", "/health", "/ready", "/metrics", "/openapi.json", "/docs",
    "/v1/pods", "/nowhere", "/snapshot", "/checks", "/tokens", "/tokens/x", "/join", "/renew", "/ca",
)
_QUERIES = (
    "", "", "", "?stale=true", "?min_index=1", "?min_index=-1", "?index=99999999999999999999", "?watch=true", "?watch=true&index=0",
    "?selector=a=b,c!=d", "?selector==", "?dry_run=true", "?dry_run=x", "?force", "?status=running&status=x", "?x=1", "?%ff=%00", "?a" * 50,
    "?index=" + "9" * 5000, "?min_index=²",
)
_HEADERS = (
    b"Content-Type: application/json\r\n", b"Content-Type: application/json\r\n", b"Content-Type: text/plain\r\n",
    b"Idempotency-Key: k\r\n", b"Idempotency-Key: \r\n", b'If-Match: "1"\r\n', b"If-Match: x\r\n", b"If-None-Match: *\r\n",
    b"Accept: text/event-stream\r\n", b"Last-Event-ID: 9\r\n", b"Expect: 100-continue\r\n", b"Connection: close\r\n",
    b"Upgrade: websocket\r\nConnection: upgrade\r\n", b"Host: \xff\r\n", b"X: " + b"y" * 9000 + b"\r\n", b"Cookie: a=b; c\r\n",
    b"Forwarded: for=x\r\n", b"Content-Encoding: gzip\r\n", b"Range: bytes=0-1\r\n", b"Transfer-Encoding: identity\r\n",
    b'If-Match: "' + b"9" * 5000 + b'"\r\n', b"Last-Event-ID: " + b"9" * 5000 + b"\r\n",
)


class Bugs(logging.Handler):
    """What a server logged with a traceback: nothing that a client sends may do that."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self.found.append(self.format(record))


@contextmanager
def threaded(life: Callable[[Path], AbstractAsyncContextManager[T]]) -> Iterator[T]:
    """What `life` makes in an empty directory, in a thread and on a loop of its own."""
    ready, done, made = threading.Event(), asyncio.Event(), list[Any]()

    async def lived() -> None:
        with tempfile.TemporaryDirectory(prefix="kago-fuzz-") as base:
            async with life(Path(base)) as it:
                made.extend((it, asyncio.get_running_loop()))
                ready.set()
                await done.wait()

    thread = threading.Thread(target=asyncio.run, args=(lived(),), name="fuzzed server")
    thread.start()
    assert ready.wait(30)
    try:
        yield made[0]
    finally:
        made[1].call_soon_threadsafe(done.set)
        thread.join(20)


@asynccontextmanager
async def with_users(base: Path) -> AsyncIterator[tuple[Secured, dict[str, str]]]:
    """A secured cluster of one, and a token's text for each role of users."""
    async with secured(base) as group:
        yield group, {role.value: (await group.token(role)).text for role in (TokenRole.READ, TokenRole.WRITE, TokenRole.ADMIN)}


class sockets:
    """Requests as bytes, one connection each."""

    def __init__(self, chance: Random) -> None:
        self._served = threaded(lambda base: running(base, Limits(head_s=0.5, answer_s=1.0, idle_s=1.0)))
        self._server, _ = self._served.__enter__()
        self._bugs = Bugs()
        logging.getLogger().addHandler(self._bugs)
        self._loop = asyncio.new_event_loop()
        self._count = 0

    def __call__(self, chance: Random) -> str:
        self._count += 1
        before = self._wanted()
        request = _request(chance)
        answer = self._ask(request)
        statuses = [int(status) for status in re.findall(rb"HTTP/1\.1 (\d\d\d) ", answer)]
        assert 500 not in statuses, answer[:2000]
        assert b"Traceback" not in answer and not self._bugs.found, (answer[:500], self._bugs.found)
        if statuses and all(status >= 400 for status in statuses):
            assert self._wanted() == before, "a refusal changed something"
            assert b'"error"' in answer or b"HEAD" in request, answer[:500]
        if request.startswith(b"GET ") and _whole(answer):
            assert _kind_of(again := self._ask(request)) == _kind_of(answer), (request, answer[:500], again[:500])
        if self._count % ASK_EVERY == 0:
            assert b" 200 OK" in self._ask(b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n")
        return "refused" if any(status >= 400 for status in statuses) else "taken" if statuses else "unanswered"

    def close(self) -> None:
        logging.getLogger().removeHandler(self._bugs)
        self._served.__exit__(None, None, None)
        self._loop.close()

    def _wanted(self) -> dict[str, int]:
        return {name: one.spec_version for name, one in list(self._server.store.tables.deployments.items())}

    def _ask(self, request: bytes) -> bytes:
        return self._loop.run_until_complete(_exchange(self._server.url, request))


def _request(chance: Random) -> bytes:
    method = chance.choice((b"GET", b"GET", b"POST", b"PUT", b"DELETE", b"HEAD", b"OPTIONS", b"PATCH", b"TRACE", b"CONNECT", b"x"))
    target = chance.choice(_PATHS) if chance.random() < 0.9 else "/deployments/" + chance.choice(WORDS)
    head = method + b" " + (target + chance.choice(_QUERIES)).encode(errors="replace") + b" HTTP/1.1\r\nHost: x\r\n"
    head += b"".join(chance.sample(_HEADERS, chance.randrange(4)))
    body = msgspec.json.encode(shaped(chance, chance.choice(_BODIES))) if chance.random() < 0.7 else b""
    if chance.random() < 0.3:
        body = mutated(chance, body)
    if chance.random() < 0.01:
        body = nested(chance, b"[", b"]")
    match chance.randrange(10):
        case 0:
            request = head + b"Transfer-Encoding: chunked\r\n\r\n" + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        case 1:
            request = head + b"Content-Length: %d\r\n\r\n" % chance.choice((0, 1, len(body) + 1, 10**7, 10**30)) + body
        case 2:
            request = head + b"\r\n"
        case _:
            request = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    if chance.random() < 0.3:
        request = mutated(chance, request, _HEADERS)
    return request if chance.random() < 0.9 else request + _request(chance)


async def _exchange(url: str, sent: bytes) -> bytes:
    """What comes back until the server closes or waits for more."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1 << 20)
    writer.write(sent)
    answer = b""
    try:
        while len(answer) < 1 << 20:
            async with asyncio.timeout(QUIET_S if answer else FIRST_S):
                more = await reader.read(1 << 16)
            if not more:
                break
            answer += more
            if sent.count(b"HTTP/1.") == 1 and _whole(answer):
                break
    except (TimeoutError, ConnectionError):
        return answer
    finally:
        writer.transport.abort()
    return answer


def _kind_of(answer: bytes) -> tuple[bytes, set[bytes]]:
    """The status and the names of the headers: the same where the same bytes are sent again, whichever way they are answered then."""
    status, *lines = answer.partition(b"\r\n\r\n")[0].split(b"\r\n")
    return status, {line.partition(b":")[0].lower() for line in lines} - {b"alt-svc"}


def _whole(answer: bytes) -> bool:
    head, _, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head)
    return length is not None and len(body) >= int(length[1])


def check_openapi(examples: int, number: int, on_case: Callable[[str], None], *, secure: bool = False) -> None:
    """So many requests to every operation of the server's own OpenAPI document. AssertionError and schemathesis' failures are findings.

    `secure`: of a secured server, asked as its administrator, as an agent, or with a token that is none."""
    bugs = Bugs()
    logging.getLogger().addHandler(bugs)
    try:
        if secure:
            with threaded(with_users) as (group, texts):
                ca, pair = group.office.directory / "ca.pem", group.office.pair(Role.AGENT, "n1", admitted=2**50)
                ca.write_bytes(group.ca)
                callers = [_session(ca, texts["admin"]), _session(ca, "kago1.x"), _session(ca, pair=pair)]
                _check(group.urls[0], callers, examples, number, on_case, bugs)
        else:
            with threaded(lambda base: running(base, Limits())) as (server, _):
                _check(server.url, [requests.Session()], examples, number, on_case, bugs)
    finally:
        logging.getLogger().removeHandler(bugs)


def _session(ca: Path, token: str = "", *, pair: Path | None = None) -> requests.Session:
    session = requests.Session()
    session.trust_env = False
    session.verify, session.cert = str(ca), str(pair) if pair is not None else None
    session.headers.update({"Authorization": f"Bearer {token}"} if token else {})
    return session


def _check(
    url: str, sessions: Sequence[requests.Session], examples: int, number: int, on_case: Callable[[str], None], bugs: Bugs
) -> None:
    schema = schemathesis.openapi.from_dict(sessions[0].get(f"{url}/openapi.json").json())
    schema.config.update(base_url=url)
    operations = [result.ok() for result in schema.get_all_operations() if isinstance(result, Ok)]
    assert len(operations) >= OPERATIONS, "not every operation of the document can be asked"
    checks = [content_type_conformance, response_schema_conformance]
    turn = itertools.cycle(sessions)
    for operation in operations:

        @seed(number)
        @settings(max_examples=examples, deadline=None, database=None, phases=(Phase.generate,), suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def ask(case: Any) -> None:
            if case.query and str(case.query.get("watch", "")).lower() not in ("", "false", "0", "no"):
                on_case("passed over")
                return  # a stream has no end; `sockets` reads some
            if str(case.query.get("min_index", "")).isdigit():
                del case.query["min_index"]  # one that is never reached is waited for
            session = next(turn)
            answer = case.call(timeout=10, session=session, verify=session.verify)
            assert answer.status_code < 500, (answer.status_code, answer.text)
            case.validate_response(answer, checks=checks)
            assert not bugs.found, bugs.found
            on_case("taken" if answer.status_code < 400 else "refused")

        ask()
