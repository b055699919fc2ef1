"""Nodes down and nodes back: what the leader's leases say, turned into verdicts.

Leases live in the leader's memory and never in the log; `Liveness` is their value at one moment. The verdict is about one life of the
agent (id and incarnation), so that one who registers meanwhile is not struck by it.
"""

from collections.abc import Iterator

from msgspec import Struct

from kago.core.model.node import Node, NodeStatus
from kago.core.state.commands import MAX_PODS_PER_COMMAND, MarkNodes, NodeVerdict
from kago.core.state.tables import Tables

MAX_VERDICTS_PER_COMMAND = 100


class Liveness(Struct, frozen=True, kw_only=True):
    """What the leader has heard, and has not heard, of the nodes."""

    expired: tuple[str, ...] = ()
    """Names of nodes whose lease ran out."""
    heard: tuple[tuple[str, int], ...] = ()
    """(name, incarnation) of nodes heard since they were marked unknown or notready."""
    leaving: tuple[str, ...] = ()
    """Names of nodes whose agent stops on purpose; their lease still runs."""
    next_expiry: float | None = None
    """When the next lease runs out (monotonic seconds)."""
    silent_s: dict[str, float] = {}
    """How long each expired node was not heard, where that is known; for words only."""


def mark_nodes(tables: Tables, liveness: Liveness) -> list[MarkNodes]:
    """The verdicts that are not in the tables yet. A lease that ran out outweighs a good-bye, and a good-bye what was heard before it."""
    verdicts: dict[str, NodeVerdict] = {}
    for name, incarnation in liveness.heard:
        node = tables.nodes.get(name)
        if node is not None and node.incarnation == incarnation and node.status is not NodeStatus.READY:
            verdicts[name] = _verdict(node, NodeStatus.READY)
    for name in liveness.leaving:
        verdicts.pop(name, None)
        node = tables.nodes.get(name)
        if node is not None and node.status is NodeStatus.READY:
            verdicts[name] = _verdict(node, NodeStatus.NOTREADY, "its agent was stopped")
    for name in liveness.expired:
        verdicts.pop(name, None)
        node = tables.nodes.get(name)
        if node is not None and node.status is not NodeStatus.UNKNOWN:
            verdicts[name] = _verdict(node, NodeStatus.UNKNOWN, _silence(liveness.silent_s.get(name)))
    epoch = tables.cluster.epoch
    return [MarkNodes(epoch=epoch, verdicts=tuple(batch)) for batch in _batches(tables, [verdicts[name] for name in sorted(verdicts)])]


def _verdict(node: Node, status: NodeStatus, reason: str = "") -> NodeVerdict:
    return NodeVerdict(name=node.name, id=node.id, incarnation=node.incarnation, status=status, reason=reason)


def _silence(seconds: float | None) -> str:
    return "lease expired" if seconds is None else f"lease expired, last heard {seconds:.0f} s ago"


def _batches(tables: Tables, verdicts: list[NodeVerdict]) -> Iterator[list[NodeVerdict]]:
    """Parts of `verdicts` that an entry can bear: the pods of a lost node are told to stop by the same one."""
    batch: list[NodeVerdict] = []
    pods = 0
    for verdict in verdicts:
        stopped = tables.nodes[verdict.name].pods if verdict.status is NodeStatus.UNKNOWN else 0
        if batch and (len(batch) == MAX_VERDICTS_PER_COMMAND or pods + stopped > MAX_PODS_PER_COMMAND):
            yield batch
            batch, pods = [], 0
        batch.append(verdict)
        pods += stopped
    if batch:
        yield batch
