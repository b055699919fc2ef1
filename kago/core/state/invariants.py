"""What must hold of the tables after every entry, for tests and simulation: derived fields are counted anew from the pods."""

from collections.abc import Iterator, Mapping

from kago.core.model.deployment import TEMPLATE_FIELDS, Deployment
from kago.core.model.node import Node
from kago.core.model.pod import Desired, Pod, PodStatus
from kago.core.model.resources import NOTHING
from kago.core.state.changes import Put
from kago.core.state.handlers.draft import replicas_of
from kago.core.state.handlers.history import MAX_RECORDS
from kago.core.state.tables import Tables


def check(tables: Tables) -> list[str]:
    """Everything wrong, in words; empty when all is well. Costs as much as there is: not for production."""
    return [
        *_check_indexes(tables),
        *(wrong for pod in tables.pods.values() for wrong in _check_pod(tables, pod)),
        *(wrong for deployment in tables.deployments.values() for wrong in _check_deployment(tables, deployment)),
        *(wrong for node in tables.nodes.values() for wrong in _check_node(tables, node)),
        *_check_unique("pod names", [pod.name for pod in tables.pods.values()]),
        *_check_unique("node ids", [node.id for node in tables.nodes.values()]),
        *_check_versions(tables),
        *_check_history(tables),
    ]


def _check_pod(tables: Tables, pod: Pod) -> Iterator[str]:
    deployment = tables.deployments.get(pod.deployment_name)
    if pod.node_name is not None and pod.node_name not in tables.nodes:
        yield f"pod {pod.name} is bound to {pod.node_name}, which is not a node"
    if pod.live and deployment is None:
        yield f"pod {pod.name} lives, but its deployment is gone"
    if pod.live and deployment is not None and pod.revision == deployment.revision:
        if any(getattr(pod, field) != getattr(deployment, field) for field in TEMPLATE_FIELDS):
            yield f"pod {pod.name} differs from the template of its revision"
    if pod.desired is Desired.STOPPED and (pod.node_name is None or pod.status is not PodStatus.TERMINATING):
        yield f"pod {pod.name} is stopped, but {pod.status} on {pod.node_name}"
    if pod.live and pod.status in (PodStatus.TERMINATING, PodStatus.TERMINATED):
        yield f"pod {pod.name} is wanted, but {pod.status}"
    if pod.node_name is None and pod.status is not PodStatus.PENDING:
        yield f"pod {pod.name} is {pod.status} without a node"
    if pod.ready and (pod.status is not PodStatus.RUNNING or pod.ready_at is None):
        yield f"pod {pod.name} is ready, but {pod.status} since {pod.ready_at}"


def _check_deployment(tables: Tables, deployment: Deployment) -> Iterator[str]:
    shares = [replicas_of(pod, deployment.revision) for pod in tables.pods_of_deployment(deployment.name)]
    counted = tuple(sum(share[n] for share in shares) for n in range(3))
    said = (deployment.ready_replicas, deployment.updated_replicas, deployment.total_replicas)
    if said != counted:
        yield f"deployment {deployment.name} says (ready, updated, total) {said}, its pods say {counted}"


def _check_node(tables: Tables, node: Node) -> Iterator[str]:
    bound = tables.pods_of_node(node.name)
    used = NOTHING
    for pod in bound:
        used = used.plus(pod.resources)
    if (node.used, node.pods) != (used, len(bound)):
        yield f"node {node.name} says {node.pods} pods use {node.used}, but {len(bound)} use {used}"
    if node.available != node.allocatable.minus(node.used):
        yield f"node {node.name} has {node.allocatable} less {node.used}, but says {node.available} are left"


def _check_indexes(tables: Tables) -> Iterator[str]:
    """The derived indexes against ones built from nothing."""
    anew = Tables()
    anew.absorb(tables.index, [Put(pod) for pod in tables.pods.values()])
    if anew.unplaced_ids != tables.unplaced_ids:
        yield f"unplaced pods are {sorted(anew.unplaced_ids)}, indexed are {sorted(tables.unplaced_ids)}"
    for pod in tables.pods.values():
        if tables.pod_id(pod.name) != pod.id or tables.pod_id(pod.id) != pod.id:
            yield f"pod {pod.name} is not found by its name and id"
    for name in {pod.deployment_name for pod in tables.pods.values()} | set(tables.deployments):
        if anew.pods_of_deployment(name) != tables.pods_of_deployment(name):
            yield f"the index of deployment {name}'s pods is wrong"
    for name in {pod.node_name for pod in tables.pods.values() if pod.node_name} | set(tables.nodes):
        if anew.pods_of_node(name) != tables.pods_of_node(name):
            yield f"the index of node {name}'s pods is wrong"
    for node in tables.nodes.values():
        if tables.node_name(node.id) != node.name:
            yield f"node {node.name} is not found by its id"


def _check_history(tables: Tables) -> Iterator[str]:
    indexes = list(tables.history)
    if len(indexes) > MAX_RECORDS:
        yield f"the history has {len(indexes)} records, more than {MAX_RECORDS}"
    if indexes != sorted(indexes) or (indexes and indexes[-1] > tables.index):
        yield f"the history is not in the order of the log: {indexes[:10]}…"


def _check_unique(what: str, values: list[str]) -> Iterator[str]:
    if len(set(values)) != len(values):
        yield f"{what} are not unique: {sorted(value for value in set(values) if values.count(value) > 1)}"


def _check_versions(tables: Tables) -> Iterator[str]:
    kinds: tuple[Mapping[str, Deployment | Pod | Node], ...] = (tables.deployments, tables.pods, tables.nodes)
    for things in kinds:
        for thing in things.values():
            if not 0 < thing.version <= tables.index:
                yield f"{thing.kind} {thing.name} has version {thing.version} at index {tables.index}"
