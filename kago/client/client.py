"""The typed face of the REST API: for the command line, the agents and anyone who writes a program against Kago.

    async with Client(["http://a:8080", "http://b:8080"]) as client:
        pods = await client.list(Pod, deployment_name="web")
"""

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from ssl import SSLContext
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import quote

import msgspec

from kago.client.errors import ClientError, Problem, TimedOut, Unreachable
from kago.client.status import ClusterStatus
from kago.client.walk import PAUSE_S, Walker
from kago.client.wire import Answer, Http
from kago.clock import Clock, SystemClock, http_date
from kago.core.checks import ServerFacts
from kago.core.model.cluster import LeaderReply, LeaderRequest, MemberReply, MemberRequest
from kago.core.model.deployment import Deployment, DeploymentPatch, DeploymentSpec
from kago.core.model.history import ChangeRecord
from kago.core.model.node import Node
from kago.core.model.pod import Pod
from kago.core.model.quantity import parse_whole
from kago.core.model.report import Heartbeat, HeartbeatReply, Registration, RegistrationReply, WatchEvent
from kago.core.model.token import NewToken, RenewReply, RenewRequest, TokenView

T = TypeVar("T", Deployment, Pod, Node, ChangeRecord)
Content = TypeVar("Content")

PATHS: Mapping[type, str] = {Deployment: "/deployments", Pod: "/pods", Node: "/nodes", ChangeRecord: "/changes"}
SILENCE_S = 12.0
"""A watch without a line for this long is dead: the server sends one at least every 10 s."""
BACKUP_SILENCE_S = 10.0
RELIST = "relist"
"""Type of the event by which `follow` says that a new listing begins: forget what the last one gave."""


class Client:
    """Walks the servers, remembers the one that worked, ends every call by its deadline."""

    def __init__(
        self,
        servers: Iterable[str],
        *,
        timeout_s: float = 3.0,
        clock: Clock | None = None,
        tls: SSLContext | None = None,
        token: str = "",
        http: Http | None = None,
    ) -> None:
        """`tls` and `token` for a secured cluster: whom to believe (and our certificate), and who the user is. `http` is for tests."""
        self._clock = clock or SystemClock()
        self._walker = Walker(servers, timeout_s=timeout_s, clock=self._clock, tls=tls, token=token, http=http)
        self._written = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        await self._walker.close()

    @property
    def servers(self) -> tuple[str, ...]:
        """Every known server URL, the one that worked last first."""
        return self._walker.servers

    @property
    def announced(self) -> tuple[str, ...]:
        """The cluster's own list, as an answer last gave it; empty while none did."""
        return self._walker.announced

    def learn(self, servers: Iterable[str]) -> None:
        """Take over the cluster's own list of servers; never empties the list."""
        self._walker.learn(servers)

    def leave(self) -> None:
        """Ask another server first from now on."""
        self._walker.leave_current()

    def server_now(self) -> float:
        """The servers' idea of the time, so that a wrong clock here shows no nonsense."""
        return self._walker.server_now()

    # -- things ------------------------------------------------------------------------------------------------------

    async def list(self, kind: type[T], *, stale: bool = False, **filters: str) -> tuple[T, ...]:
        """All things of a kind, by the API's filters (deployment_name, node_name, status, selector); an empty one is none."""
        answer = await self._walker.call("GET", PATHS[kind], params=self._read_params(filters, stale))
        return _decode(answer, tuple[kind, ...])  # type: ignore[valid-type]

    async def get(self, kind: type[T], name: str, *, stale: bool = False) -> T:
        """One thing; Problem 404."""
        return _decode(await self._walker.call("GET", _path(kind, name), params=self._read_params({}, stale)), kind)

    async def create(self, spec: DeploymentSpec, *, dry_run: bool = False) -> Deployment:
        """Problem 409 if it exists, but not when our own earlier attempt made it."""
        return _decode(await self._write("POST", PATHS[Deployment], msgspec.json.encode(spec), dry_run=dry_run), Deployment)

    async def update(self, name: str, change: DeploymentSpec | DeploymentPatch, *, dry_run: bool = False) -> Deployment:
        """PUT: a patch changes what it names, a spec everything; Problem 404."""
        return _decode(await self._write("PUT", _path(Deployment, name), msgspec.json.encode(change), dry_run=dry_run), Deployment)

    async def delete(self, kind: type[Deployment] | type[Pod] | type[Node], name: str, *, dry_run: bool = False) -> None:
        """Problem 404, but not when our own earlier attempt did it."""
        await self._write("DELETE", _path(kind, name), None, dry_run=dry_run)

    async def cluster(self) -> ClusterStatus:
        """Who leads, and how far every server is; answered without a quorum too."""
        return _decode(await self._walker.call("GET", "/cluster"), ClusterStatus)

    async def add_member(self, address: str) -> str:
        """The id of the server at `address`, a learner until it has caught up; Problem 409 with the reason."""
        body = msgspec.json.encode(MemberRequest(address=address))
        return _decode(await self._walker.call("POST", "/cluster/members", body=body, headers=_JSON), MemberReply).id

    async def remove_member(self, id: str) -> None:
        """Problem 404, 409 with the reason."""
        await self._walker.call("DELETE", f"/cluster/members/{quote(id, safe='')}")

    async def transfer_leadership(self, id: str = "") -> str:
        """Who leads now; Problem 409 with the reason."""
        body = msgspec.json.encode(LeaderRequest(id=id))
        return _decode(await self._walker.call("POST", "/cluster/leader", body=body, headers=_JSON), LeaderReply).leader

    async def checks(self, server: str, *, timeout_s: float = 3.0) -> tuple[ServerFacts, float]:
        """What this one server says of itself, and how far its clock is ahead of ours in seconds; Problem, Unreachable."""
        clock = self._clock
        asked = clock.now()
        facts = _decode(await self._walker.ask(server, "/checks", timeout_s=timeout_s), ServerFacts)
        # It looked while we waited: what lies between is not its clock's fault.
        return facts, facts.now - min(max(facts.now, asked), clock.now())

    async def backup(self, take: Callable[[bytes], object], *, stale: bool = False) -> str:
        """Give a backup of the whole state to `take`, piece by piece; the server it came from. The caller must check what arrived."""
        params = {"stale": "true"} if stale else {}
        async with self._walker.stream("/snapshot", params=params, silence_s=BACKUP_SILENCE_S, lines=False) as (server, pieces):
            async for piece in pieces:
                take(piece)
            return server

    # -- agents ------------------------------------------------------------------------------------------------------

    async def register(self, registration: Registration) -> RegistrationReply:
        answer = await self._walker.call("POST", "/nodes/register", body=msgspec.json.encode(registration), headers=_JSON)
        return _decode(answer, RegistrationReply)

    async def renew(self, request_pem: bytes) -> bytes:
        """A new certificate (PEM) in place of the one this client shows."""
        body = msgspec.json.encode(RenewRequest(request=request_pem.decode()))
        return _decode(await self._walker.call("POST", "/renew", body=body, headers=_JSON), RenewReply).certificate.encode()

    def allow(self, seconds: float) -> None:
        """From now on a call may take so long."""
        self._walker.timeout_s = seconds

    async def heartbeat(self, name: str, heartbeat: Heartbeat) -> HeartbeatReply:
        """Problem 404: register again; 409: a newer agent of this identity runs."""
        # The date lets the servers notice a clock that is far off.
        headers = {**_JSON, "date": http_date(int(self._clock.now()))}
        answer = await self._walker.call("POST", f"{_path(Node, name)}/heartbeat", body=msgspec.json.encode(heartbeat), headers=headers)
        return _decode(answer, HeartbeatReply)

    # -- tokens ------------------------------------------------------------------------------------------------------

    async def tokens(self) -> tuple[TokenView, ...]:
        return _decode(await self._walker.call("GET", "/tokens"), tuple[TokenView, ...])

    async def create_token(self, token: NewToken) -> TokenView:
        """Only its hash travels, so the same call may be repeated."""
        body = {name: value for name, value in msgspec.to_builtins(token).items() if name != "id" and value is not None}
        answer = await self._walker.call("PUT", f"/tokens/{token.id}", body=msgspec.json.encode(body), headers=_JSON)
        return _decode(answer, TokenView)

    async def revoke_token(self, id: str) -> None:
        """Problem 404."""
        await self._walker.call("DELETE", f"/tokens/{quote(id, safe='')}")

    # -- watches -----------------------------------------------------------------------------------------------------

    async def watch(self, path: str, params: Mapping[str, str], *, silence_s: float = SILENCE_S) -> AsyncGenerator[WatchEvent, None]:
        """The events of one server's stream, heartbeats among them, until it breaks (Unreachable, Problem) or ends."""
        async with self._walker.stream(path, params={**params, "watch": "true"}, silence_s=silence_s) as (server, lines):
            async for line in lines:
                if not line.strip():
                    continue
                try:
                    event = msgspec.json.decode(line, type=WatchEvent)
                except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                    self._walker.leave_current()
                    raise Unreachable(((server, f"not a watch event: {error}"),)) from error
                if event.type == "error":
                    content = msgspec.json.encode(event.object or {})
                    problem = Problem.decode(_status_of(event), content)
                    raise problem
                yield event

    async def follow(self, path: str, params: Mapping[str, str], *, silence_s: float = SILENCE_S) -> AsyncIterator[WatchEvent]:
        """`watch` for ever: goes on at another server where one left off, and lists again where that is not possible.

        A stream that broke amid the changes of one log entry is asked for all of them again, and those given before are left out.
        A new listing is announced by an event of type `relist`. Raises only what asking again cannot cure (Problem 4xx).
        """
        index: int | None = None
        latest: list[WatchEvent] = []
        """What was given of the newest entry."""
        pause = PAUSE_S
        while True:
            resume = {} if index is None else {"index": str(index)}
            listing = index is None
            if listing:
                yield WatchEvent(type=RELIST, index=0)
            try:
                async for event in self.watch(path, {**params, **resume}, silence_s=silence_s):
                    pause = PAUSE_S
                    if event.type == "synced":
                        listing = False
                    if not listing:  # within a listing an index says nothing about the things not yet listed
                        index = max(index or 0, event.complete)
                        if event.type in ("put", "removed"):  # heartbeats are alike and no repetition
                            if event in latest:
                                continue
                            latest = [event, *(other for other in latest if other.index == event.index)]
                    yield event
            except Problem as problem:
                if problem.status == 410:
                    index = None
                elif problem.status < 500 and problem.status != 429:
                    raise
            except ClientError:
                pass
            else:
                self._walker.leave_current()  # it ended the stream: it stops, or we were too slow for it
            await asyncio.sleep(pause)
            pause = min(pause * 2, 2.0)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _read_params(self, filters: Mapping[str, str], stale: bool) -> dict[str, str]:
        """A stale read still shows what this client wrote itself."""
        params = {name: value for name, value in filters.items() if value}
        if stale:
            params["stale"] = "true"
            if self._written:
                params["min_index"] = str(self._written)
        return params

    async def _write(self, method: str, path: str, body: bytes | None, *, dry_run: bool) -> Answer:
        """Every write has a key, also PUT and DELETE: an attempt that hung on its way must not be carried out after a later write."""
        params = {"dry_run": "true"} if dry_run else {}
        headers = {**(_JSON if body else {}), "idempotency-key": uuid.uuid4().hex}
        answer = await self._walker.call(method, path, params=params, body=body, headers=headers)
        self._written = max(self._written, parse_whole(answer.headers.get("x-kago-index", "")) or 0)
        return answer


_JSON = {"content-type": "application/json"}


def _path(kind: type, name: str) -> str:
    return f"{PATHS[kind]}/{quote(name, safe='')}"


def _decode(answer: Answer, kind: type[Content]) -> Content:
    try:
        return msgspec.json.decode(answer.content, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        detail = f"{answer.url} gave an answer that is not a {getattr(kind, '__name__', kind)}: {error}"
        raise Problem.decode(answer.status_code, msgspec.json.encode({"type": "urn:kago:problem:bad-answer", "detail": detail})) from error


def _status_of(event: WatchEvent) -> int:
    status = (event.object or {}).get("status")
    return status if isinstance(status, int) else 500


__all__ = ["PATHS", "RELIST", "Client", "ClientError", "Problem", "TimedOut", "Unreachable"]
