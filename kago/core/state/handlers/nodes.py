"""Nodes: how they join, what the leader finds out about them, and how they are forgotten."""

from msgspec.structs import replace

from kago.core.model.node import Node, NodeStatus
from kago.core.model.report import Registration
from kago.core.model.validation import check_registration
from kago.core.state.commands import DeleteNode, MarkNodes, NodeVerdict, RegisterNode
from kago.core.state.handlers.draft import Draft, invalid
from kago.core.state.handlers.tokens import remove_name
from kago.core.state.rejections import Accepted, Refusal, Rejection, Reply


def register(draft: Draft, command: RegisterNode) -> Reply:
    """Take a node in: a new one, a known one whose agent started again, or the successor of one that is down."""
    wanted = command.registration
    if errors := check_registration(wanted):
        return invalid(errors)
    known = draft.node(wanted.name)
    if known is not None and known.id == wanted.id:
        if wanted.incarnation < known.incarnation:
            return stale_incarnation(known, wanted.incarnation)
    else:
        refusal = _free_name(draft, wanted, known) or _free_id(draft, wanted)
        if refusal is not None:
            return refusal
    node = _registered(draft, wanted, known)
    draft.put_node(node)
    return Accepted(name=node.name, version=node.version if node == known else draft.index)


def mark(draft: Draft, command: MarkNodes) -> Reply:
    stopped = 0
    for verdict in command.verdicts:
        node = draft.node(verdict.name)
        if node is None or node.id != verdict.id or node.incarnation != verdict.incarnation:
            continue
        draft.put_node(_marked(node, verdict, draft.at))
        if verdict.status is NodeStatus.UNKNOWN:
            message = f"node {node.name} was not heard for too long"
            for pod in draft.tables.pods_of_node(node.name):
                stopped += draft.stop_pod(pod, reason="NodeLost", message=message)
    return Accepted(version=draft.index, count=stopped)


def delete(draft: Draft, command: DeleteNode) -> Reply:
    node = draft.node(command.name)
    if node is None:
        return Rejection(refusal=Refusal.NOT_FOUND, detail=f"there is no node {command.name}")
    if node.status is NodeStatus.READY and not command.force:
        return Rejection(
            refusal=Refusal.CONFLICT, detail=f"node {node.name} is ready; stop its agent first, or force it and lose its {node.pods} pods"
        )
    _forget(draft, node)
    if command.ban:
        remove_name(draft, "agent", node.name)
    return Accepted(name=node.name, version=draft.index)


def stale_incarnation(node: Node, incarnation: int) -> Rejection:
    return Rejection(
        refusal=Refusal.STALE_INCARNATION,
        detail=f"another agent runs node {node.name} by now (incarnation {node.incarnation}); this one ({incarnation}) must stop",
    )


def _registered(draft: Draft, wanted: Registration, known: Node | None) -> Node:
    base = known or Node(
        name=wanted.name, id=wanted.id, address=wanted.address, port=wanted.port, capacity=wanted.capacity, allocatable=wanted.capacity,
        available=wanted.capacity, created_at=draft.at, status_since=draft.at,
    )
    return replace(
        base,
        id=wanted.id,
        address=wanted.address,
        port=wanted.port,
        status=NodeStatus.READY,
        reason="",
        capacity=wanted.capacity,
        allocatable=wanted.capacity,
        labels=wanted.labels,
        runtimes=wanted.runtimes,
        agent_version=wanted.agent_version,
        incarnation=wanted.incarnation,
        created_at=base.created_at if base.id == wanted.id else draft.at,
        status_since=base.status_since if base.status is NodeStatus.READY else draft.at,
    )


def _free_name(draft: Draft, wanted: Registration, holder: Node | None) -> Rejection | None:
    """Make room for a new machine under a name that another one had: only over one that is down, whose pods end with it."""
    if holder is None:
        return None
    if holder.status is NodeStatus.READY:
        return Rejection(
            refusal=Refusal.CONFLICT,
            detail=f"node {wanted.name} is another machine ({holder.address}:{holder.port}) and ready; choose another name",
        )
    _forget(draft, holder)
    return None


def _free_id(draft: Draft, wanted: Registration) -> Rejection | None:
    """Let a machine change its name once its old self is down; while that is ready, two agents share one data directory or a copy."""
    node = draft.tables.nodes.get(draft.tables.node_name(wanted.id) or "")
    if node is None or node.name == wanted.name:
        return None
    if node.status is NodeStatus.READY:
        return Rejection(
            refusal=Refusal.CONFLICT, detail=f"this agent's data directory belongs to node {node.name}, which is ready; use that name"
        )
    if wanted.incarnation < node.incarnation:
        return stale_incarnation(node, wanted.incarnation)
    _forget(draft, node)
    return None


def _marked(node: Node, verdict: NodeVerdict, at: float) -> Node:
    since = node.status_since if node.status is verdict.status else at
    return replace(node, status=verdict.status, reason=verdict.reason, status_since=since)


def _forget(draft: Draft, node: Node) -> None:
    """Remove a node and every pod bound to it: nobody is left who could say that a container is gone."""
    for pod in draft.tables.pods_of_node(node.name):
        draft.remove_pod(pod.id)
    draft.remove_node(node.name)
