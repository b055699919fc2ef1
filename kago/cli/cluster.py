"""The verbs of `kago cluster` that change which servers there are and which leads."""

import asyncio
import time

import msgspec

from kago.cli.console import note, say
from kago.cli.failures import Code, VerbFailed
from kago.cli.get import Output
from kago.cli.manifest import to_yaml
from kago.cli.serving import raft_address
from kago.cli.tables import members_table
from kago.client.client import Client
from kago.client.errors import ClientError
from kago.client.status import ClusterStatus, MemberStatus
from kago.core.model.cluster import advice

LOOK_S = 0.3


async def members(client: Client, *, output: Output) -> None:
    cluster = await client.cluster()
    if output is Output.JSON:
        say(msgspec.json.format(msgspec.json.encode(cluster.members), indent=2).decode())
    elif output is Output.YAML:
        say(to_yaml(msgspec.to_builtins(cluster.members)).rstrip())
    elif output is Output.NAME:
        say("\n".join(f"server/{member.id}" for member in cluster.members))
    else:
        say(members_table(cluster))
        _advise(cluster)


async def add(client: Client, address: str, *, timeout_s: float | None) -> None:
    """Returns once the new server votes. VerbFailed (124) where that takes longer."""
    where = raft_address(address)
    id = await client.add_member(where)
    await _until_it_votes(client, id, where, timeout_s=timeout_s)
    say(f"server/{id} added")
    _advise(await client.cluster())


async def remove(client: Client, id: str) -> None:
    await client.remove_member(_named(await client.cluster(), id))
    say(f"server/{id} removed")
    _advise(await client.cluster())


async def replace(client: Client, old: str, new: str, *, timeout_s: float | None) -> None:
    """Of a dead server first the removal, since each server more needs more votes; of a live one first the addition."""
    cluster = await client.cluster()
    id = _named(cluster, old)
    leaving = _find(cluster, id)
    if leaving is None:
        raise VerbFailed(f"there is no server {old}; see kago cluster members", Code.NOT_FOUND)
    if leaving.role == "down":
        note(f"{id} is down: it is removed first, then {new} is added")
        await remove(client, id)
        await add(client, new, timeout_s=timeout_s)
    else:
        await add(client, new, timeout_s=timeout_s)
        await remove(client, id)


async def transfer_leader(client: Client, id: str) -> None:
    leader = await client.transfer_leadership(_named(await client.cluster(), id) if id else "")
    say(f"server/{leader} leads")


async def _until_it_votes(client: Client, id: str, address: str, *, timeout_s: float | None) -> None:
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    said = ""
    while True:
        try:
            cluster = await client.cluster()
        except ClientError as error:
            words = f"waiting: {error}"
        else:
            member = _find(cluster, id)
            if member is None:
                raise VerbFailed(f"{id} was removed again while it was waited for", Code.CONFLICT)
            if member.voter and member.role != "down":
                return
            words = _progress(member, address)
        if words != said:
            note(words)
        said = words
        if deadline is not None and time.monotonic() > deadline:
            raise VerbFailed(
                f"{id} is a member but does not vote yet: {words}. It will by itself once it has caught up; "
                f"kago cluster remove {id} takes it out again",
                Code.TIMED_OUT,
            )
        await asyncio.sleep(LOOK_S)


def _progress(member: MemberStatus, address: str) -> str:
    if member.role == "down":
        return f"waiting for {member.id} to run; start it there with: kago serve --join URL --address {address}"
    return f"{member.id} is catching up" if not member.lag else f"{member.id} is catching up, {member.lag} entries behind"


def _find(cluster: ClusterStatus, id: str) -> MemberStatus | None:
    return next((member for member in cluster.members if member.id == id), None)


def _named(cluster: ClusterStatus, name: str) -> str:
    """The id of the server with this id or address; an unknown name is left for the cluster to judge."""
    if _find(cluster, name) is not None:
        return name
    address = raft_address(name) if "#" not in name else name
    return next((member.id for member in cluster.members if address in (member.id, member.address)), name)


def _advise(cluster: ClusterStatus) -> None:
    hint = advice(sum(member.voter for member in cluster.members))
    if hint:
        note(f"warning: {hint}")
