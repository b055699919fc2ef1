"""The cluster itself: health, readiness, members, metrics, and the description of this API."""

import asyncio
import logging
from ssl import SSLContext
from urllib.parse import urlsplit

import msgspec
from sanic import Blueprint, HTTPResponse, Request
from sanic.response import html, raw

from kago.server.answers import struct_answer
from kago.server.metrics import CONTENT_TYPE, Metrics
from kago.server.openapi import PAGE, document
from kago.server.problems import unavailable
from kago.server.requests import flag
from kago.server.store import Store
from raft.contract import LogStatus, Role

_logger = logging.getLogger(__name__)
LEADER_ANSWERS_S = 0.5


def blueprint(store: Store, metrics: Metrics, version: str, dialling: SSLContext | None) -> Blueprint:
    """`dialling`: for asking other servers, where they are secured."""
    routes = Blueprint("cluster")
    description = document(version, secured=dialling is not None)

    @routes.get("/health")
    async def health(request: Request) -> HTTPResponse:
        return struct_answer({"status": "healthy", "version": version})

    @routes.get("/ready")
    async def ready(request: Request) -> HTTPResponse:
        status = store.status()
        if status.leader is None:
            raise unavailable("no-leader", _missing(status))
        if not status.caught_up:
            behind = f"{status.raft_applied_index} of {status.raft_commit_index} log entries"
            raise unavailable("catching-up", f"this server has applied {behind}")
        return struct_answer({"status": "ready", "leader": status.leader, "role": status.role.value})

    @routes.get("/cluster")
    async def cluster(request: Request) -> HTTPResponse:
        view, status = _describe(store), store.status()
        if status.leader not in (None, status.me) and not flag(request, "stale"):
            # Only the leader knows how far the others are.
            view["members"] = await _members_by_leader(store, str(status.leader), dialling) or view["members"]
        return struct_answer(view)

    @routes.get("/metrics")
    async def scrape(request: Request) -> HTTPResponse:
        return raw(metrics.render(), content_type=CONTENT_TYPE)

    @routes.get("/openapi.json")
    async def openapi(request: Request) -> HTTPResponse:
        return raw(description, content_type="application/json")

    @routes.get("/docs")
    async def docs(request: Request) -> HTTPResponse:
        return html(PAGE)

    return routes


def _describe(store: Store) -> dict[str, object]:
    status, servers = store.status(), store.tables.servers
    members = []
    for member in status.members:
        known = status.role is Role.LEADER and member.raft_index > 0
        members.append(
            {
                "id": member.id,
                "address": member.address,
                "voter": member.voter,
                "api": servers[member.id].api if member.id in servers else "",
                "role": member.role,
                "index": member.raft_index,
                "lag": max(0, status.raft_last_index - member.raft_index) if known else None,
                "contact_age_s": member.contact_age_s,
                "version": servers[member.id].release if member.id in servers else "",
            }
        )
    return {
        "leader": status.leader,
        "term": status.term,
        "index": status.applied,
        "cluster_id": store.tables.cluster.id,
        "epoch": store.tables.cluster.epoch,
        "schema": store.tables.cluster.schema_version,
        "digest": store.machine.digest,
        "server": status.me,
        "log_id": status.cluster,
        "members": members,
    }


async def _members_by_leader(store: Store, leader: str, dialling: SSLContext | None) -> list[object]:
    """The members as the leader's own API describes them; none where it does not answer at once."""
    server = store.tables.servers.get(leader)
    address = urlsplit(server.api) if server is not None else None
    if address is None or address.hostname is None:
        return []
    try:
        async with asyncio.timeout(LEADER_ANSWERS_S):
            reader, writer = await asyncio.open_connection(address.hostname, address.port, ssl=dialling)
            writer.write(b"GET /cluster?stale=true HTTP/1.0\r\n\r\n")
            answer = await reader.read()
            writer.close()
        return msgspec.json.decode(answer.partition(b"\r\n\r\n")[2], type=_Described).members
    except (OSError, TimeoutError, ValueError) as error:
        _logger.debug("the leader %s does not describe the members: %s", leader, error)
        return []


class _Described(msgspec.Struct):
    members: list[object]


def _missing(status: LogStatus) -> str:
    down = [member.id for member in status.members if member.role == "down"]
    up = len(status.members) - len(down)
    who = f"; not reachable: {', '.join(down)}" if down else ""
    return f"no leader is known; this server reaches {up} of {len(status.members)} servers, itself included{who}"
