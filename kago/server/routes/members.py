"""/cluster/members and /cluster/leader: which servers there are, and which leads. Every server takes these; the leader decides."""

import logging
from urllib.parse import unquote

from sanic import Blueprint, HTTPResponse, Request

from kago.core.model.cluster import LeaderReply, LeaderRequest, MemberReply, MemberRequest
from kago.core.state.commands import NoteChange, RemoveServer
from kago.server.answers import struct_answer
from kago.server.problems import Refused, of_log_error, of_rejection
from kago.server.requests import check_parameters, convert, read_json
from kago.server.routes.writes import caller_of
from kago.server.store import Store
from raft.addresses import is_loopback, split_address
from raft.contract import ChangeKind
from raft.errors import LogError, StartRefused

_logger = logging.getLogger(__name__)
_VERBS = {ChangeKind.ADD: "added", ChangeKind.REMOVE: "removed", ChangeKind.LEAD: "made leader"}
CHANGE_S = 8.0
"""The leader may have to hand over first; clients wait a little longer."""


def blueprint(store: Store) -> Blueprint:
    routes = Blueprint("members", url_prefix="/cluster")

    async def change(request: Request, kind: ChangeKind, subject: str) -> str:
        check_parameters(request)
        try:
            await store.catch_up(stale=False, min_index=None)
            too_new = store.too_new(RemoveServer(epoch=0, id=subject))  # the log's own messages about members are as old as this
            if too_new is not None:
                raise of_rejection(too_new)
            id = await store.log.change(kind, subject, timeout_s=CHANGE_S)
        except LogError as error:
            raise of_log_error(error) from None
        await _remember(store, request, kind, id, f"at {subject}" if kind is ChangeKind.ADD else "")
        return id

    @routes.post("/members")
    async def add(request: Request) -> HTTPResponse:
        address = convert(read_json(request), MemberRequest).address
        try:
            split_address(address)
        except StartRefused as error:
            raise Refused(422, "validation", f"/address: {error}") from None
        _check_reach(store, address)
        id = await change(request, ChangeKind.ADD, address)
        return struct_answer(MemberReply(id=id, address=address), status=201)

    @routes.delete("/members/<id:str>")
    async def remove(request: Request, id: str) -> HTTPResponse:
        return struct_answer(MemberReply(id=await change(request, ChangeKind.REMOVE, unquote(id))))

    @routes.post("/leader")
    async def lead(request: Request) -> HTTPResponse:
        wanted = convert(read_json(request), LeaderRequest).id
        return struct_answer(LeaderReply(leader=await change(request, ChangeKind.LEAD, wanted)))

    return routes


async def _remember(store: Store, request: Request, kind: ChangeKind, id: str, summary: str) -> None:
    """It is done by now, whether the history says so or not: a server that was just removed cannot write it."""
    actor, source = caller_of(request)
    try:
        await store.submit(NoteChange(verb=_VERBS[kind], name=f"server/{id}", summary=summary), actor=actor, source=source)
    except LogError as error:
        _logger.warning("%s by %s from %s of server %s is not in the history: %s", _VERBS[kind], actor, source, id, error)


def _check_reach(store: Store, address: str) -> None:
    """A server that is known by a loopback address is reached by no other machine. Refused (409)."""
    for member in store.status().members:
        if is_loopback(member.address) and not is_loopback(address):
            known = f"server {member.id} is known as {member.address}, which no other machine reaches"
            raise Refused(409, "conflict", f"{known}: restart it with --address HOST[:PORT], then add {address}")
