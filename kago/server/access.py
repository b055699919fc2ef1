"""Who is asking, and what that one may do: decided once for each request, before any route sees it.

On a server that is not secured everybody may do everything, as it says at its start. On a secured one: servers and agents are known by
their certificates, users by a bearer token or by a certificate given out for one. An agent speaks for its own node and nobody else's. What
no line here allows is an administrator's.
"""

import asyncio
from collections.abc import Iterable
from typing import Any

from msgspec import Struct
from sanic import Request

from kago.core.model.token import JOINING, Removal, Token, TokenRole
from kago.core.state.changes import Change, Put, Removed
from kago.security.handshake import peer_of
from kago.security.subject import NotOurs, Role, Subject
from kago.security.tokens import BadToken, parse_token, same_digest
from kago.server.credentials import Credentials
from kago.server.problems import Refused, of_log_error
from kago.server.requests import parameter
from kago.server.store import Store
from raft.errors import LogError

PUBLIC = frozenset({("GET", "health"), ("GET", "ready"), ("GET", "ca"), ("POST", "join"), ("GET", "openapi.json"), ("GET", "docs")})
READ = frozenset(
    ("GET", path)
    for path in (
        "deployments", "deployments/<name:str>", "pods", "pods/<name:str>", "nodes", "nodes/<name:str>", "cluster", "checks", "metrics",
        "changes",
    )
)
WRITE = frozenset(
    {
        ("POST", "deployments"), ("PUT", "deployments/<name:str>"), ("DELETE", "deployments/<name:str>"), ("DELETE", "pods/<name:str>"),
    }
)
RENEW = ("POST", "renew")
NODE = frozenset({("POST", "nodes/register"), ("POST", "nodes/<name:str>/heartbeat")})
NODES_PODS = ("GET", "pods")
_RANK = {TokenRole.READ: 1, TokenRole.WRITE: 2, TokenRole.ADMIN: 3}
LAST_ANSWER_S = 0.2
"""Whoever is shut out is still told what it asked for last: it may have revoked its own token."""
SWEEP_S = 30.0
_CHALLENGE = {"www-authenticate": 'Bearer realm="kago"'}


class Caller(Struct, frozen=True, kw_only=True):
    """Who asks; `subject` of a certificate or `token`, neither where the server is not secured."""

    subject: Subject | None = None
    token: Token | None = None

    @property
    def name(self) -> str:
        """For people: who did it."""
        if self.subject is not None:
            return self.subject.key
        return f"token/{self.token.id}" if self.token is not None else "anybody"


class Access:
    """Knows the tokens, the removed names and the present certificates of one secured server; of another one, that all is open."""

    def __init__(self, store: Store, credentials: Credentials | None) -> None:
        self._store = store
        self._credentials = credentials
        self.connections: Iterable[Any] = ()
        """Sanic's, of this server's API."""
        if credentials is not None:
            store.listeners.append(self.applied)

    async def check(self, request: Request) -> Caller:
        """The caller, who may do this. Refused: 401, 403, 503."""
        if self._credentials is None:
            return Caller()
        path = request.route.path.removeprefix("v1/").rstrip("/") if request.route is not None else ""
        what = (request.method, path)
        subject = self._subject(request)
        if what in PUBLIC:
            return Caller(subject=subject)
        if subject is not None:
            self.check_removed(subject)
            if subject.role is not Role.USER:
                _check_member(subject, what, request)
                return Caller(subject=subject)
        token = await self._token(request, subject)
        _marks(request).token_id = token.id
        if what in NODE or (what == RENEW and subject is None):
            raise _forbidden("this is for agents, which prove who they are by a certificate")
        _check_user(token, what)
        return Caller(subject=subject, token=token)

    def still_allows(self, caller: Caller, connection: Any) -> bool:
        """Whether what `caller` was allowed may be done by whoever asks for it in the same words over `connection` (its `conn_info`)."""
        if self._credentials is None:
            return True
        marks, token, subject = _fresh(connection.ctx), caller.token, caller.subject
        if not marks.looked_at or marks.subject != subject:
            return False
        if subject is not None and self._removed(subject):
            return False
        if token is not None:
            marks.token_id = token.id
        return token is None or self._still_known(token)

    def _still_known(self, token: Token) -> bool:
        return self._store.tables.tokens.get(token.id) is token and self._in_force(token)

    def check_removed(self, subject: Subject) -> None:
        """Refused (403) where the name was removed since the certificate's holder was let in."""
        if self._removed(subject):
            raise Refused(403, "removed", f"{subject.role} {subject.name} was removed from this cluster; a new token lets it in again")

    def _removed(self, subject: Subject) -> bool:
        removal = self._store.tables.removals.get(subject.key)
        return removal is not None and removal.version > subject.admitted

    def _subject(self, request: Request) -> Subject | None:
        """Of the connection's certificate; looked at once a connection."""
        known = _marks(request)
        if not known.looked_at:
            try:
                known.subject = peer_of(request.transport.get_extra_info("ssl_object"))
            except NotOurs as error:
                raise _unauthorized(str(error)) from None
            known.looked_at = True
        found: Subject | None = known.subject
        return found

    async def _token(self, request: Request, subject: Subject | None) -> Token:
        """The one that stands for the user. Refused."""
        if subject is not None:
            token = await self.find_token(subject.name)
            if token is None:
                raise _unauthorized("the token this certificate was given for is revoked or has run out")
            return token
        kind, _, text = (request.headers.get("authorization") or "").partition(" ")
        if not text:
            raise _unauthorized("say who you are: with a token (Authorization: Bearer kago1.…) or a certificate of this cluster")
        if kind.lower() != "bearer":
            raise _unauthorized("only Authorization: Bearer is known here")
        token = await self.known_token(text)
        if token.role in JOINING:
            raise _forbidden(f"token {token.id} lets {'a server' if token.role is TokenRole.SERVER else 'an agent'} join, and nothing else")
        return token

    async def known_token(self, text: str) -> Token:
        """The token of this text, in force. Refused (401, 503)."""
        try:
            shown = parse_token(text)
        except BadToken as error:
            raise _unauthorized(str(error)) from None
        token = await self.find_token(shown.id)
        ours = self._credentials is not None and shown.pins(self._credentials.ca_digest)
        if not same_digest(token.digest if token is not None else "", shown.digest) or token is None or not ours:
            raise _unauthorized("this token is not known here: it was revoked, has run out, or is another cluster's")
        return token

    async def find_token(self, id: str) -> Token | None:
        """By its id, if it is in force. Refused (503) where only a quorum could tell."""
        store = self._store
        if self._credentials is not None and not self._credentials.tokens_adopted:
            first = self._credentials.first_tokens.get(id)
            if first is not None:
                return first if self._in_force(first) else None
        if id not in store.tables.tokens:
            try:  # perhaps made a moment ago through another server
                await store.catch_up(stale=False, min_index=None)
            except LogError as error:
                raise of_log_error(error) from None
        token = store.tables.tokens.get(id)
        return token if token is not None and self._in_force(token) else None

    # -- connections that are open -------------------------------------------------------------------------------------

    def applied(self, index: int, changes: tuple[Change, ...]) -> None:
        """Close what those hold open who may not come in any more."""
        for change in changes:
            match change:
                case Put(after=Removal() as removal):
                    self._close(removal.key)
                case Removed(before=Token() as token):
                    self._close(f"{Role.USER}/{token.id}", token_id=token.id)

    def _close(self, key: str, *, token_id: str = "-") -> None:
        for connection in list(self.connections):
            marks = _fresh(connection.conn_info.ctx) if connection.conn_info is not None else None
            if marks is not None and (_key(marks) == key or marks.token_id == token_id):
                asyncio.get_running_loop().call_later(LAST_ANSWER_S, connection.abort)

    async def sweep(self) -> None:
        """For ever: close the connections whose certificate ran out since they were opened, the idle ones first."""
        while True:
            await asyncio.sleep(SWEEP_S)
            now = self._store.clock.now()
            for connection in list(self.connections):
                subject = _fresh(connection.conn_info.ctx).subject if connection.conn_info is not None else None
                if subject is not None and subject.expires_at <= now and not connection.close_if_idle():
                    if subject.expires_at <= now - 2 * SWEEP_S:
                        connection.abort()

    def _in_force(self, token: Token) -> bool:
        return token.expires_at is None or self._store.clock.now() < token.expires_at


def _marks(request: Request) -> Any:
    """What is known of the request's connection."""
    assert request.conn_info is not None
    return _fresh(request.conn_info.ctx)


def _fresh(marks: Any) -> Any:
    if not hasattr(marks, "token_id"):
        marks.token_id, marks.subject, marks.looked_at = "", None, False
    return marks


def _key(marks: Any) -> str:
    return marks.subject.key if marks.subject is not None else ""


def subject_of_caller(request: Request) -> Subject | None:
    """Of the certificate that came with this request."""
    caller: Caller | None = getattr(request.ctx, "caller", None)
    return caller.subject if caller is not None else None


def removed_servers(store: Store) -> dict[str, int]:
    """By id, the index at which each was removed."""
    return {removal.name: removal.version for removal in store.tables.removals.values() if removal.role == Role.SERVER}


def own_node(request: Request, name: str) -> None:
    """An agent speaks for its own node. Refused (403)."""
    subject = subject_of_caller(request)
    if subject is not None and subject.name != name:
        raise _forbidden(f"agent {subject.name} may not speak for node {name}")


def _check_member(subject: Subject, what: tuple[str, str], request: Request) -> None:
    if what == RENEW:
        return
    if subject.role is Role.SERVER:
        if what in READ:
            return
        raise _forbidden("a server asks other servers only what everybody may read; what it changes goes through the log")
    if what in NODE:
        return  # the route compares the name, which may stand in the body
    if what == NODES_PODS and parameter(request, "node_name") == subject.name:
        return
    raise _forbidden(f"agent {subject.name} may register, send heartbeats and watch its own pods (node_name={subject.name}), nothing else")


def _check_user(token: Token, what: tuple[str, str]) -> None:
    needed = TokenRole.READ if what in READ else TokenRole.WRITE if what in WRITE else TokenRole.ADMIN
    if _RANK[token.role] < _RANK[needed]:
        raise _forbidden(f"this needs the role {needed}, and token {token.id} has the role {token.role}")


def _unauthorized(detail: str) -> Refused:
    return Refused(401, "unauthorized", detail, headers=_CHALLENGE)


def _forbidden(detail: str) -> Refused:
    return Refused(403, "forbidden", detail)
