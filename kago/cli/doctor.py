"""`kago doctor`: asks every server about itself and the others, and says what is wrong and what to do about it."""

import asyncio

import msgspec

from kago.cli.console import note, say
from kago.cli.failures import Code, VerbFailed
from kago.cli.get import Output
from kago.cli.manifest import to_yaml
from kago.client.client import Client
from kago.client.errors import ClientError, Unreachable
from kago.client.status import MemberStatus
from kago.core.checks import Finding, Level, MemberFacts, NodeFacts, check_members, check_nodes, quorum
from kago.core.model.node import Node


async def examine(client: Client, output: Output) -> None:
    """Print the findings; VerbFailed (1) where there are any."""
    try:
        findings, summary = await _findings(client)
    except Unreachable as error:
        tried = "; ".join(f"{server}: {reason}" for server, reason in error.tried)
        lost = Finding(
            level=Level.ERROR,
            subject="cluster",
            problem=f"no server answers ({tried})",
            remedy="start kago serve there, or name other servers with --server; if all are gone for good: kago recover --plan",
        )
        findings, summary = [lost], ""
    if output in (Output.JSON, Output.YAML):
        content = {"healthy": not findings, "findings": msgspec.to_builtins(findings)}
        text = to_yaml(content) if output is Output.YAML else msgspec.json.format(msgspec.json.encode(content), indent=2).decode()
        say(text.rstrip())
    else:
        for finding in findings:
            say(f"{finding.level}: {finding.subject}: {finding.problem}\n  -> {finding.remedy}")
        if summary:
            note(summary)
    if findings:
        raise VerbFailed(f"{len(findings)} finding{'' if len(findings) == 1 else 's'}", Code.ERROR)


async def _findings(client: Client) -> tuple[list[Finding], str]:
    cluster = await client.cluster()
    members = await asyncio.gather(*(_member(client, member) for member in cluster.members))
    nodes = [
        NodeFacts(name=node.name, status=node.status, status_since=node.status_since, reason=node.reason, pods=node.pods)
        for node in await client.list(Node, stale=True)
    ]
    up, needed = quorum(members)
    findings = [*check_members(members, schema=cluster.schema), *check_nodes(nodes, now=client.server_now())]
    findings.sort(key=lambda finding: finding.level is not Level.ERROR)
    ready = sum(node.status == "ready" for node in nodes)
    return findings, f"{up} of {len(members)} servers up ({needed} needed), {ready} of {len(nodes)} nodes ready"


async def _member(client: Client, member: MemberStatus) -> MemberFacts:
    if not member.api:
        return MemberFacts(id=member.id, role=member.role, voter=member.voter, silent="it has not said where its API is")
    try:
        facts, off_s = await client.checks(member.api)
    except ClientError as error:
        return MemberFacts(id=member.id, role=member.role, voter=member.voter, silent=str(error))
    return MemberFacts(id=member.id, role=member.role, voter=member.voter, facts=facts, clock_off_s=off_s)
