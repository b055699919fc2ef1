"""Who leads the cluster and which servers it has."""

from msgspec import UNSET
from msgspec.structs import replace

from kago.core.model.cluster import Server
from kago.core.state.commands import ClaimLeadership, RaiseSchema, RegisterServer, RemoveServer
from kago.core.state.handlers.draft import Draft
from kago.core.state.handlers.tokens import remove_name
from kago.core.state.rejections import Accepted, Refusal, Rejection, Reply


def claim(draft: Draft, command: ClaimLeadership) -> Reply:
    cluster = draft.tables.cluster
    if command.term <= cluster.epoch:
        return Rejection(
            refusal=Refusal.STALE_EPOCH, detail=f"{cluster.leader} leads with epoch {cluster.epoch} already, {command.term} comes too late"
        )
    if not cluster.id:
        cluster = replace(cluster, id=command.cluster_id, schema=command.schema if command.schema > 1 else UNSET)
    draft.put_cluster(replace(cluster, epoch=command.term, leader=command.server))
    return Accepted(name=command.server, version=draft.index)


def raise_schema(draft: Draft, command: RaiseSchema) -> Reply:
    cluster = draft.tables.cluster
    behind = [f"{server.id} ({server.software_version})" for server in draft.tables.servers.values() if server.schema < command.schema]
    if behind:
        detail = f"these servers do not know schema {command.schema} yet: {', '.join(sorted(behind))}"
        return Rejection(refusal=Refusal.CONFLICT, detail=detail)
    if command.schema > cluster.schema_version:
        draft.put_cluster(replace(cluster, schema=command.schema))
    return Accepted(version=draft.index)


def register_server(draft: Draft, command: RegisterServer) -> Reply:
    known = draft.tables.servers.get(command.id)
    server = Server(id=command.id, api=command.api, software_version=command.software_version, version=known.version if known else 0)
    if server == known:
        return Accepted(name=server.id, version=known.version)
    draft.put_server(server)
    return Accepted(name=server.id, version=draft.index)


def remove_server(draft: Draft, command: RemoveServer) -> Reply:
    known = command.id in draft.tables.servers
    if known:
        draft.remove_server(command.id)
    if known or f"server/{command.id}" not in draft.tables.removals:
        remove_name(draft, "server", command.id)
    return Accepted(name=command.id, version=draft.index)
