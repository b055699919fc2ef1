"""/nodes: the machines, and what their agents say."""

import msgspec
from sanic import Blueprint, HTTPResponse, Request

from kago.core.model.node import Node
from kago.core.model.report import Heartbeat, HeartbeatReply, Registration, RegistrationReply
from kago.core.model.validation import check_registration
from kago.core.state.changes import Thing
from kago.core.state.commands import DeleteNode, RegisterNode
from kago.core.state.rejections import Rejection
from kago.server.access import own_node, removed_servers, subject_of_caller
from kago.server.answers import make_readable, read_many, read_one, server_urls, struct_answer, thing_answer
from kago.server.leader import Leader
from kago.server.problems import Refused, not_found, of_log_error, of_rejection, unavailable
from kago.server.reports import Reports
from kago.server.requests import convert, flag, read_json, require_match, selected
from kago.server.routes.writes import delete_missing, write
from kago.server.store import Store
from raft.errors import LogError

LEADER_SILENT_S = 1.5
"""A server that has not heard the leader for this long sends agents on: it can renew no lease."""


def blueprint(store: Store, leader: Leader, reports: Reports, *, secured: bool = False) -> Blueprint:
    """`secured`: a node that is deleted comes back with a new token only."""
    routes, standing = Blueprint("nodes", url_prefix="/nodes"), _Standing(store, leader)

    @routes.get("/")
    async def list_all(request: Request) -> HTTPResponse | None:
        wanted = selected(request)

        def found() -> list[Thing]:
            return [node for _, node in sorted(store.tables.nodes.items()) if wanted(node)]

        return await read_many(store, request, "nodes", found)

    @routes.get("/<name:str>")
    async def get_one(request: Request, name: str) -> HTTPResponse:
        def found() -> Node:
            node = store.tables.nodes.get(name)
            if node is None:
                raise not_found("node", name)
            return node

        return await read_one(store, request, found)

    @routes.delete("/<name:str>")
    async def delete(request: Request, name: str) -> HTTPResponse:
        await make_readable(store, request)
        before = store.tables.nodes.get(name)
        command = DeleteNode(name=name, force=flag(request, "force"), ban=secured)
        if before is None:
            return await delete_missing(store, request, command, Node, name)
        require_match(request, before)
        await write(store, request, command, Node, name)
        return thing_answer(store, request, before)

    @routes.post("/register")
    async def register(request: Request) -> HTTPResponse:
        registration = convert(read_json(request), Registration)
        own_node(request, registration.name)
        return struct_answer(await _register(store, leader, registration))

    @routes.post("/<name:str>/heartbeat")
    async def heartbeat(request: Request, name: str) -> HTTPResponse:
        own_node(request, name)
        beat = convert(read_json(request), Heartbeat)
        await _take(store, leader, name, beat)
        reports.note_clock(name, request.headers.get("date"))
        if (subject := subject_of_caller(request)) is not None:
            reports.note_certificate(name, subject.expires_at)
        if beat.pods:
            try:
                await reports.submit(name, beat, size=len(request.body))
            except LogError as error:
                raise of_log_error(error) from None
        return struct_answer(standing.reply())

    return routes


class _Standing:
    """What a heartbeat is answered: the same at one index of the log, so it is worked out once for all nodes heard at it."""

    def __init__(self, store: Store, leader: Leader) -> None:
        self._store, self._leader = store, leader
        self._index, self._reply = -1, msgspec.Raw()

    def reply(self) -> msgspec.Raw:
        tables, leases = self._store.tables, self._leader.leases
        if tables.index != self._index:
            nodes = len(tables.nodes)
            reply = HeartbeatReply(
                index=tables.index,
                epoch=tables.cluster.epoch,
                heartbeat_s=leases.interval_s(nodes),
                lease_s=leases.lease_s(nodes),
                servers=server_urls(self._store),
                removed_servers=removed_servers(self._store),
            )
            self._index, self._reply = tables.index, msgspec.Raw(msgspec.json.encode(reply))
        return self._reply


async def _register(store: Store, leader: Leader, registration: Registration) -> RegistrationReply:
    errors = check_registration(registration)
    if errors:
        raise Refused(422, "validation", "; ".join(f"{error.pointer}: {error.detail}" for error in errors), errors=errors)
    try:
        reply = await store.submit(RegisterNode(registration=registration))
    except LogError as error:
        raise of_log_error(error) from None
    if isinstance(reply, Rejection):
        raise _with_holder(store, registration, of_rejection(reply))
    leader.heard(registration.name, registration.incarnation, leaving=False)
    cluster, nodes = store.tables.cluster, len(store.tables.nodes)
    if not cluster.id:  # the very first leader has not named the cluster yet: its agents' containers would carry no name
        raise unavailable("no-leader", "the cluster's first leader is just taking over; register again")
    return RegistrationReply(
        cluster_id=cluster.id,
        index=store.tables.index,
        epoch=cluster.epoch,
        heartbeat_s=leader.leases.interval_s(nodes),
        lease_s=leader.leases.lease_s(nodes),
        servers=server_urls(store),
        removed_servers=removed_servers(store),
    )


def _with_holder(store: Store, wanted: Registration, refused: Refused) -> Refused:
    """An agent of an older data directory learns how far its former self came, and whether that still lives."""
    held = [node for node in store.tables.nodes.values() if node.id == wanted.id and node.incarnation > wanted.incarnation]
    if refused.name == "stale-incarnation" and held:
        refused.extra |= {"incarnation": held[0].incarnation, "node_status": held[0].status}
    return refused


async def _take(store: Store, leader: Leader, name: str, beat: Heartbeat) -> None:
    """Let the heartbeat renew its node's lease. Refused (404, 409, 503) where it cannot."""
    node = store.tables.nodes.get(name)
    if node is None or node.id != beat.node_id or node.incarnation < beat.incarnation:
        # Perhaps only this server lags behind: registered a moment ago through another one.
        node = await _known(store, name, beat)
    if node.id != beat.node_id or node.incarnation != beat.incarnation:
        detail = f"node {name} is held by agent {node.id} in its life {node.incarnation}; this one must stop acting"
        raise Refused(409, "stale-incarnation", detail)
    status = store.recent_status()
    if status.leader_contact_age_s is None or status.leader_contact_age_s > LEADER_SILENT_S or not status.heard_by_leader:
        # Taken here it would renew no lease: send the agent on to a server that the leader hears.
        raise unavailable("no-leader", "this server and the leader do not hear each other; another server may")
    leader.heard(name, beat.incarnation, leaving=beat.leaving)


async def _known(store: Store, name: str, beat: Heartbeat) -> Node:
    try:
        await store.catch_up(stale=False, min_index=None)
    except LogError as error:
        raise of_log_error(error) from None
    node = store.tables.nodes.get(name)
    if node is None or (node.id == beat.node_id and node.incarnation < beat.incarnation):
        raise not_found("node", name)
    return node
