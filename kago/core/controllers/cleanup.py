"""What is forgotten after a while: nodes that do not come back, and pods that ended and are in the way of their successors."""

from collections.abc import Iterable
from itertools import islice

from kago.core.model.node import NodeStatus
from kago.core.model.pod import PodStatus
from kago.core.state.commands import MAX_PODS_PER_COMMAND, DeleteNode, RemovePods
from kago.core.state.tables import Tables

FINISHED_KEPT_S = 10.0
"""A pod that ended for good counts as a replica until it is removed; its deployment makes another one no sooner than this after it was
made, so that a program which only ever ends does not fill the log with pods."""


def forget_nodes(tables: Tables, names: Iterable[str], *, now: float, node_gc_s: float) -> tuple[list[DeleteNode], float | None]:
    """Deletions of those nodes that were unknown for too long, and in how many seconds the next one is."""
    commands = []
    waits = []
    for name in names:
        node = tables.nodes.get(name)
        if node is None or node.status is not NodeStatus.UNKNOWN:
            continue
        left = node.status_since + node_gc_s - now
        if left > 0:
            waits.append(left)
        else:
            # Not by force: a node that came back meanwhile is ready, and the command refused.
            commands.append(DeleteNode(name=name))
    return commands, min(waits, default=None)


def remove_finished(tables: Tables, ids: Iterable[str], *, now: float) -> tuple[list[RemovePods], float | None]:
    """Removals of those pods that ended long enough ago, and in how many seconds the next one is."""
    due = []
    waits = []
    for id in ids:
        pod = tables.pods.get(id)
        if pod is None or pod.status not in (PodStatus.SUCCEEDED, PodStatus.FAILED):
            continue
        left = pod.created_at + FINISHED_KEPT_S - now
        if 0 < left <= FINISHED_KEPT_S:
            waits.append(left)
        else:
            due.append(id)
    rest = iter(due)
    commands = []
    while batch := tuple(islice(rest, MAX_PODS_PER_COMMAND)):
        commands.append(RemovePods(epoch=tables.cluster.epoch, ids=batch))
    return commands, min(waits, default=None)
