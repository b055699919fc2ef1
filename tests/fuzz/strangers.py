"""Rubbish for a secured server's API, by everybody who may come to its door: users, agents, servers, and who has nothing to show.

What each may do stands here a second time and apart from `kago/server/access.py`: nobody gets further, whatever is asked and however it is
said. No answer is a 500 or holds a secret, and the server serves on.
"""

import asyncio
import logging
import re
import ssl
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from kago.core.model.cluster import LeaderRequest, MemberRequest
from kago.core.model.deployment import DeploymentPatch, DeploymentSpec
from kago.core.model.report import Heartbeat, Registration
from kago.core.model.token import JoinReply, JoinRequest, NewToken, RenewRequest, TokenRole
from kago.security.authority import new_key, request_for
from kago.security.subject import Role, subject_of
from kago.security.tokens import mint
from tests.chaos.user import chunked_body
from tests.fuzz.api import Bugs, threaded, with_users
from tests.fuzz.credentials import greedy_request
from tests.fuzz.mutations import WORDS, mutated, shaped
from tests.integration.certificates import DAY_S, Office, intruder

ANSWER_S = 20.0
CLOSED_S = 1.0
ASK_EVERY = 200
OPEN = {("GET", "health"), ("GET", "ready"), ("GET", "ca"), ("GET", "openapi.json"), ("GET", "docs"), ("POST", "join")}
READ = {("GET", word) for word in ("deployments", "pods", "nodes", "cluster", "checks", "metrics", "changes")}
AGENTS = {("POST", "nodes/register"), ("POST", "nodes/n1/heartbeat"), ("POST", "renew"), ("GET", "pods")}
_BODIES = (
    DeploymentSpec, DeploymentPatch, Registration, Heartbeat, MemberRequest, LeaderRequest, JoinRequest, RenewRequest, NewToken,
)
_PATHS = (
    "/deployments", "/deployments/web", "/pods", "/pods?node_name=n1", "/pods?node_name=n2", "/pods?node_name=n1&node_name=n2",
    "/pods/web-1", "/nodes", "/nodes/n1", "/nodes/n2", "/nodes/n2?force=true", "/nodes/register", "/nodes/n1/heartbeat",
    "/nodes/n2/heartbeat", "/nodes/%6e1/heartbeat", "/nodes/n1%2f../n2/heartbeat", "/cluster", "/cluster/members", "/cluster/members/x",
    "/cluster/leader", "/health", "/ready", "/metrics", "/checks", "/changes", "/snapshot", "/tokens", "/tokens/aaaaaaaa",
    "/tokens/bbbbbbbb", "/tokens/../ca", "/join", "/renew", "/ca", "/openapi.json", "/docs", "/v1/tokens", "/v1/join", "/v1/v1/tokens",
    "/v1/nodes/n2/heartbeat", "//tokens", "/tokens/", "/health/../tokens", "/%74okens", "/CA", "/nowhere", "/docs/../snapshot",
)
CALLERS = ("nobody", "nobody", "garbage", "joiner", "read", "write", "admin", "agent", "agent", "server", "user", "ghost")
_SCHEMES = ("Bearer ", "bearer ", "BEARER  ", "Basic ", "Bearer\t", "", "Digest ", "Bearer Bearer ", "Bearer \x00", "Token ")


class strangers:
    """Requests over TLS, by each kind of caller in turn, with what that one has to show for itself."""

    def __init__(self, chance: Random) -> None:
        self._served = threaded(with_users)
        self._group, self._texts = group, texts = self._served.__enter__()
        self._bugs = Bugs()
        logging.getLogger().addHandler(self._bugs)
        self._loop = asyncio.new_event_loop()
        self._directory = tempfile.TemporaryDirectory(prefix="kago-fuzz-")
        office, other = group.office, Office(Path(self._directory.name), group.office.authority.cluster)
        admitted = 2**50  # whoever deletes the node does not shut this one out
        pairs = {
            "agent": office.pair(Role.AGENT, "n1", admitted=admitted), "server": office.pair(Role.SERVER, "s9:7080", admitted=admitted),
            "user": office.pair(Role.USER, group.first[TokenRole.READ].id), "ghost": office.pair(Role.USER, "cccccccc"),
        }
        self._contexts = {"nobody": group.context(), **{name: group.context(pair) for name, pair in pairs.items()}}
        self._forged = [
            intruder(pair) for pair in (
                other.pair(Role.SERVER, "s9:7080"), other.pair(Role.AGENT, "n1"), office.pair(Role.AGENT, "n1", ago_s=31 * DAY_S),
                office.pair(Role.SERVER, "s9", ago_s=-2 * DAY_S), office.pair(Role.AGENT, "n1", cluster="another"),
            )
        ]  # fmt: skip
        self._streams: dict[str, tuple[asyncio.StreamReader, asyncio.StreamWriter]] = {}
        self._joining = [group.first[role].text for role in (TokenRole.AGENT, TokenRole.SERVER)]
        shown = [*self._joining, group.first[TokenRole.ADMIN].text, *texts.values()]
        self._secrets = [text.rpartition(".")[2].encode() for text in shown]
        self._requests = [request_for(new_key()).decode(), greedy_request(chance).decode(), "", "x" * 20_000]
        self._count = 0

    def __call__(self, chance: Random) -> str:
        return self._loop.run_until_complete(self._once(chance))

    async def _once(self, chance: Random) -> str:
        self._count += 1
        if chance.random() < 0.01:
            return await self._knock(chance)
        before = self._state()
        who = chance.choice(CALLERS)
        method = chance.choice(("GET", "GET", "POST", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"))
        target = chance.choice(_PATHS)
        answer = await self._ask(self._contexts.get(who, self._contexts["nobody"]), who, self._request(chance, who, method, target))
        if answer is None:
            return "cut off"
        status, head, body = answer
        assert status < 500, (who, method, target, body[:1000])
        assert not self._bugs.found and b"Traceback" not in body, (self._bugs.found, body[:1000])
        self._check_secrets(status, method, target, body)
        if status >= 400:
            assert method == "HEAD" or b'"error"' in body, body[:500]
            assert status not in (401,) or b"www-authenticate: bearer" in head.lower()
        elif status < 300:
            assert _may(who, method, target), f"{who} did {method} {target}: {status} {body[:300]!r}"
        self._check_state(who, before, done=status < 300)
        if self._count % ASK_EVERY == 0:
            health = await self._ask(self._contexts["nobody"], "nobody", b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert health is not None and health[0] == 200
        return "taken" if status < 400 else "refused"

    def close(self) -> None:
        for _, writer in self._streams.values():
            writer.transport.abort()
        logging.getLogger().removeHandler(self._bugs)
        self._served.__exit__(None, None, None)
        self._loop.close()
        self._directory.cleanup()

    def _request(self, chance: Random, who: str, method: str, target: str) -> bytes:
        bodies = {"join": JoinRequest, "renew": RenewRequest, "register": Registration, "heartbeat": Heartbeat}
        kind = bodies.get(target.partition("?")[0].rpartition("/")[2], chance.choice(_BODIES))
        spoilt = mutated(chance, self._joining[0].encode()).decode("latin-1")
        tokens = [*self._joining, *self._joining, mint(b"x" * 32).text, "kago1", spoilt]
        likely: dict[str, Any] = {
            "token": tokens, "role": ("agent", "server", "admin", "read"), "name": ("n1", "n3", "n4", "s9:7080"), "request": self._requests,
            "digest": ("0" * 64, "x"), "ttl_s": (60.0, 1.0, None), "uses": (None, 1), "incarnation": (1, 2), "node_id": ("a", "b"),
            "id": ("a", "aaaaaaaa"), "address": ("127.0.0.1", "10.0.0.9:7080"), "port": (8081,), "runtimes": (["process"],),
        }
        body = msgspec.json.encode(shaped(chance, kind, WORDS, likely))
        body = mutated(chance, body) if chance.random() < 0.1 else body
        head = f"{method} {target} HTTP/1.1\r\nHost: x\r\n".encode()
        if text := self._shown(chance, who):
            head += b"Authorization: " + text + b"\r\n"
        if chance.random() < 0.05:
            head += chance.choice((b"X-Forwarded-For: ::1\r\n", b"X-HTTP-Method-Override: GET\r\n", b"Cookie: token=x\r\n", b"Host: y\r\n"))
        return head + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body

    def _shown(self, chance: Random, who: str) -> bytes:
        if who in self._texts:
            return f"Bearer {self._texts[who]}".encode()
        if who == "joiner":
            return f"Bearer {chance.choice(self._joining)}".encode()
        if who != "garbage":
            # A certificate goes before whatever else is said.
            return b"Bearer " + self._joining[0].encode() if chance.random() < 0.1 else b""
        good = chance.choice((*self._texts.values(), *self._joining)).encode()
        text = chance.choice(_SCHEMES).encode() + mutated(chance, good)
        text = re.sub(rb"[\r\n]", b"", text)
        while text.decode(errors="surrogateescape").partition(" ")[2].strip() in self._texts.values():
            text = re.sub(rb"[\r\n]", b"", mutated(chance, text))  # what was done to it left it whole
        return text

    async def _ask(self, context: ssl.SSLContext, who: str, request: bytes) -> tuple[int, bytes, bytes] | None:
        """(status, head, body); None where the connection was closed instead."""
        name = who if who in self._contexts else "nobody"
        if name not in self._streams:
            port = self._group.servers[0].config.port
            self._streams[name] = await asyncio.open_connection("127.0.0.1", port, ssl=context, limit=1 << 22)
        reader, writer = self._streams[name]
        head, body = b"", b""
        with suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            writer.write(request)
            async with asyncio.timeout(ANSWER_S):
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"content-length: (\d+)", head.lower())
                if length is not None and not request.startswith(b"HEAD") and b" 304 " not in head[:20]:
                    body = await reader.readexactly(int(length[1]))
                elif b"transfer-encoding" in head.lower() and not request.startswith(b"HEAD"):
                    body = await chunked_body(reader)
        if not head or b"connection: close" in head.lower() or reader.at_eof():
            writer.transport.abort()
            del self._streams[name]
        return (int(head[9:12]), head, body) if head else None

    async def _knock(self, chance: Random) -> str:
        """A handshake that must not be made: with a forged certificate, or one whose bytes are wrong."""
        port = self._group.servers[0].config.port
        if chance.random() < 0.5:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=chance.choice(self._forged))
                writer.write(b"GET /pods HTTP/1.1\r\nHost: x\r\n\r\n")
                heard = await reader.read(100)
            except (ConnectionError, ssl.SSLError):
                return "hung up"
            writer.transport.abort()
            assert not heard, heard
            return "hung up"
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(mutated(chance, _client_hello(), [_client_hello()]))
        with suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(0.05):
                assert b"HTTP" not in await reader.read(4096)
        writer.transport.abort()
        return "hung up"

    def _state(self) -> Mapping[str, object]:
        tables = self._group.servers[0].store.tables
        return {
            "deployments": {name: one.spec_version for name, one in list(tables.deployments.items())},
            "pods": {id: one.desired for id, one in list(tables.pods.items())},
            "tokens": {id: one.uses_left for id, one in list(tables.tokens.items())},
            "removals": sorted(tables.removals), "nodes": sorted(tables.nodes), "servers": sorted(tables.servers),
        }  # fmt: skip

    def _check_state(self, who: str, before: Mapping[str, object], *, done: bool) -> None:
        now = self._state()
        moved = {name for name in now if now[name] != before[name]} - ({"pods"} if who == "write" else set())
        allowed: dict[str, set[str]] = {"admin": set(now), "write": {"deployments"}, "agent": {"nodes"}}
        moved -= {"pods"}  # the leader makes and binds them in its own time
        assert moved <= (allowed.get(who, set()) if done else set()), f"{who} changed {moved}"

    def _check_secrets(self, status: int, method: str, target: str, body: bytes) -> None:
        for secret in self._secrets:
            assert secret not in body, "an answer holds a token's secret"
        if b"PRIVATE KEY" in body:
            assert status == 200 and method == "POST" and target.endswith("/join"), "the CA's key was given away"
        if status == 200 and method == "POST" and target.endswith("/join"):
            reply = msgspec.json.decode(body, type=JoinReply)
            if reply.certificate:
                assert subject_of(ssl.PEM_cert_to_DER_cert(reply.certificate)).role is Role.AGENT


def _may(who: str, method: str, target: str) -> bool:
    """Whether this one may at all have this answered with a yes."""
    path, _, query = target.partition("?")
    path = path.removeprefix("/v1").strip("/").replace("%6e", "n").replace("%74", "t")
    what = ("GET" if method in ("HEAD", "OPTIONS") else method, path)
    if what in OPEN or method == "OPTIONS":
        return True
    reads = what in READ or (what[0] == "GET" and what[1].split("/")[0] in ("deployments", "pods", "nodes"))
    match who:
        case "agent":
            return what in AGENTS and (path != "pods" or query.startswith("node_name=n1"))
        case "server":
            return reads or what == ("POST", "renew")
        case "read" | "user":
            return reads
        case "write":
            return reads or (what[0] != "GET" and path.split("/")[0] in ("deployments", "pods"))
        case "admin":
            return what not in AGENTS - {("GET", "pods")} and not path.endswith("/heartbeat")
        case _:
            return False


def _client_hello() -> bytes:
    context, out = ssl.create_default_context(), ssl.MemoryBIO()
    hello = context.wrap_bio(ssl.MemoryBIO(), out, server_hostname="x")
    with suppress(ssl.SSLWantReadError):
        hello.do_handshake()
    return out.read()
