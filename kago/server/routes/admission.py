"""/ca, /join, /renew and /tokens: how somebody comes to hold a certificate, and who may let others in."""

import hashlib

from sanic import Blueprint, HTTPResponse, Request
from sanic.response import raw

from kago.core.model.node import NodeStatus
from kago.core.model.token import JoinReply, JoinRequest, NewToken, RenewReply, RenewRequest, Token, TokenRole, TokenView, check_token
from kago.core.model.validation import check_node_name
from kago.core.state.commands import AnyCommand, CreateToken, RevokeToken, SpendToken
from kago.core.state.rejections import Rejection
from kago.security.authority import requested_key
from kago.security.subject import NotOurs, Role, Subject
from kago.server.access import Access
from kago.server.answers import make_readable, struct_answer
from kago.server.credentials import Credentials
from kago.server.leader import Leader
from kago.server.problems import Refused, not_found, of_log_error, of_rejection, unavailable
from kago.server.requests import convert, read_json
from kago.server.routes.writes import caller_of
from kago.server.store import Store
from raft.errors import LogError

PEM = "application/x-pem-file"
MAX_PEM_BYTES = 16 * 1024


def blueprint(store: Store, access: Access, credentials: Credentials, leader: Leader) -> Blueprint:
    """For a secured server only."""
    routes = Blueprint("admission")

    @routes.get("/ca")
    async def ca(request: Request) -> HTTPResponse:
        return raw(credentials.keyring.ca_pem, content_type=PEM)

    @routes.post("/join")
    async def join(request: Request) -> HTTPResponse:
        asked = convert(read_json(request), JoinRequest)
        token = await access.known_token(asked.token)
        _check_join(store, token, asked, leader)
        if asked.role is TokenRole.AGENT:
            _check_request(asked.request)  # a request that is none shall not use the token up
        await _spend(store, token, asked)
        if asked.role is TokenRole.SERVER:
            return struct_answer(credentials.welcome_server())
        admitted = store.tables.index
        subject = Subject(cluster=credentials.keyring.cluster, role=Role.AGENT, name=asked.name, admitted=admitted)
        return struct_answer(JoinReply(certificate=_signed(store, credentials, asked.request, subject), admitted=admitted))

    @routes.post("/renew")
    async def renew(request: Request) -> HTTPResponse:
        asked = convert(read_json(request), RenewRequest)
        known: Subject = request.ctx.caller.subject
        # Removed while this server did not know it yet, it gets an index that is too low and is refused all the same.
        subject = Subject(cluster=known.cluster, role=known.role, name=known.name, admitted=store.tables.index)
        return struct_answer(RenewReply(certificate=_signed(store, credentials, asked.request, subject)))

    @routes.get("/tokens")
    async def tokens(request: Request) -> HTTPResponse:
        await make_readable(store, request)
        return struct_answer([_view(store.tables.tokens[id]) for id in sorted(store.tables.tokens)])

    @routes.put("/tokens/<name:str>")
    async def create(request: Request, name: str) -> HTTPResponse:
        body = read_json(request)
        if body.setdefault("id", name) != name:
            raise Refused(422, "validation", f"/id: the path says {name!r}")
        token = convert(body, NewToken)
        errors = tuple(check_token(token))
        if errors:
            raise Refused(422, "validation", "; ".join(f"{error.pointer}: {error.detail}" for error in errors), errors=errors)
        await _submit(store, request, CreateToken(token=token))
        return struct_answer(_view(store.tables.tokens[name]))

    @routes.delete("/tokens/<name:str>")
    async def revoke(request: Request, name: str) -> HTTPResponse:
        await make_readable(store, request)
        before = store.tables.tokens.get(name)
        if before is None:
            raise not_found("token", name)
        await _submit(store, request, RevokeToken(id=name))
        return struct_answer(_view(before))

    return routes


async def _submit(store: Store, request: Request, command: AnyCommand) -> None:
    actor, source = caller_of(request)
    try:
        reply = await store.submit(command, actor=actor, source=source)
    except LogError as error:
        raise of_log_error(error) from None
    if isinstance(reply, Rejection):
        raise of_rejection(reply)


def _check_join(store: Store, token: Token, asked: JoinRequest, leader: Leader) -> None:
    if token.role is not asked.role or asked.role not in (TokenRole.AGENT, TokenRole.SERVER):
        raise Refused(403, "forbidden", f"token {token.id} is for role {token.role}: nobody joins as {asked.role} with it")
    if asked.role is TokenRole.SERVER:
        return
    if errors := tuple(check_node_name(asked.name)):
        raise Refused(422, "validation", f"/name: {errors[0].detail}", errors=errors)
    node = store.tables.nodes.get(asked.name)
    if node is not None and node.status is NodeStatus.READY and not leader.misses(asked.name):
        detail = f"node {node.name} is ready; stop its agent before it joins anew, or choose another name"
        raise Refused(409, "conflict", detail)


async def _spend(store: Store, token: Token, asked: JoinRequest) -> None:
    if token.id not in store.tables.tokens:
        return  # one of the first: its uses are not counted, and there may be no log yet
    key = hashlib.sha256(asked.request.encode()).hexdigest()[:16]
    command = SpendToken(id=token.id, role=token.role, spender=f"{asked.role}/{asked.name}/{key}")
    try:
        reply = await store.submit(command)
    except LogError as error:
        raise of_log_error(error) from None
    if isinstance(reply, Rejection):
        raise Refused(403, "forbidden", reply.detail)


def _check_request(request: str) -> None:
    if len(request) > MAX_PEM_BYTES or not request.isascii():
        raise Refused(422, "validation", f"/request: a signing request is at most {MAX_PEM_BYTES} ASCII characters of PEM")
    try:
        requested_key(request.encode())
    except NotOurs as error:
        raise Refused(422, "validation", f"/request: {error}") from None


def _signed(store: Store, credentials: Credentials, request: str, subject: Subject) -> str:
    _check_request(request)
    try:
        return credentials.authority.sign(request.encode(), subject, now=store.clock.now()).decode()
    except NotOurs as error:
        raise unavailable("ca-expired", str(error)) from None


def _view(token: Token) -> TokenView:
    return TokenView(
        id=token.id,
        role=token.role,
        expires_at=token.expires_at,
        uses_left=token.uses_left,
        spent_by=token.spent_by,
        description=token.description,
        created_at=token.created_at,
    )
