"""Prometheus metrics, read from the tables at each scrape, under the names the first Kago gave them."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from kago.core.model.node import NodeStatus
from kago.core.model.pod import PodStatus
from kago.server.store import Store
from raft.contract import Role

CONTENT_TYPE = CONTENT_TYPE_LATEST
METHODS = ("GET", "POST", "PUT", "DELETE")
BUCKETS_S = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)


class Metrics:
    """One server's registry."""

    def __init__(self, store: Store) -> None:
        self._registry = CollectorRegistry()
        self._requests = _Requests()
        self._registry.register(self._requests)
        self._registry.register(_State(store))

    def answered(self, method: str, status: int, seconds: float) -> None:
        # A method is the client's word, and each label value lives for ever.
        self._requests.answered(method if method in METHODS else "other", status, seconds)

    def render(self) -> bytes:
        return generate_latest(self._registry)


class _Requests(Collector):
    """Counted on the event loop at each answer, so without the library's locks; told in its words."""

    def __init__(self) -> None:
        self._count: Counter[tuple[str, int]] = Counter()
        self._buckets = {method: [0] * (len(BUCKETS_S) + 1) for method in (*METHODS, "other")}
        self._seconds: Counter[str] = Counter()

    def answered(self, method: str, status: int, seconds: float) -> None:
        self._count[method, status] += 1
        self._buckets[method][bisect_left(BUCKETS_S, seconds)] += 1
        self._seconds[method] += seconds  # type: ignore[assignment]

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        requests = CounterMetricFamily("kago_http_requests", "Requests answered, by method and status.", labels=["method", "status"])
        for (method, status), count in sorted(self._count.items()):
            requests.add_metric([method, str(status)], count)
        yield requests
        seconds = HistogramMetricFamily("kago_http_request_seconds", "Until the answer began, by method.", labels=["method"])
        for method in sorted(self._seconds):
            bounds = [*map(str, BUCKETS_S), "+Inf"]
            buckets = list(zip(bounds, accumulate(self._buckets[method]), strict=True))
            seconds.add_metric([method], buckets, self._seconds[method])
        yield seconds


class _State(Collector):
    """Everything that is counted from the state, and the log's own figures."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        yield from self._pods()
        yield from self._deployments()
        yield from self._nodes()
        yield from self._raft()

    def _pods(self) -> Iterator[Metric]:
        pods = self._store.tables.pods.values()
        yield _single("kago_pods_total", "Pods that exist.", len(pods))
        by_status = Counter(dict.fromkeys(PodStatus, 0))
        by_deployment: Counter[str] = Counter(dict.fromkeys(self._store.tables.deployments, 0))
        by_node: Counter[str] = Counter(dict.fromkeys(self._store.tables.nodes, 0))
        restarts: Counter[str] = Counter()
        for pod in pods:
            by_status[pod.status] += 1
            by_deployment[pod.deployment_name] += 1
            restarts[pod.deployment_name] += pod.restarts
            if pod.node_name is not None:
                by_node[pod.node_name] += 1
        yield _by("kago_pods_by_status", "Pods by status.", "status", by_status)
        yield _by("kago_pods_by_deployment", "Pods by deployment.", "deployment", by_deployment)
        yield _by("kago_pods_by_node", "Pods by node.", "node", by_node)
        yield _by("kago_pod_restarts", "Restarts in place of the pods that exist, by deployment.", "deployment", restarts)

    def _deployments(self) -> Iterator[Metric]:
        deployments = self._store.tables.deployments.values()
        yield _single("kago_deployments_total", "Deployments.", len(deployments))
        desired = {deployment.name: deployment.replicas for deployment in deployments}
        ready = {deployment.name: deployment.ready_replicas for deployment in deployments}
        updated = {deployment.name: deployment.updated_replicas for deployment in deployments}
        yield _by("kago_deployment_replicas_desired", "Replicas wanted.", "deployment", desired)
        yield _by("kago_deployment_replicas_ready", "Replicas ready.", "deployment", ready)
        yield _by("kago_deployment_replicas_updated", "Replicas of the newest revision.", "deployment", updated)

    def _nodes(self) -> Iterator[Metric]:
        nodes = self._store.tables.nodes.values()
        yield _single("kago_nodes_total", "Nodes.", len(nodes))
        by_status = Counter(dict.fromkeys(NodeStatus, 0))
        by_status.update(node.status for node in nodes)
        yield _by("kago_nodes_by_status", "Nodes by status.", "status", by_status)
        for what, pick in (("capacity", "capacity"), ("used", "used"), ("available", "available")):
            cpu = {node.name: getattr(node, pick).cpu_millis for node in nodes}
            memory = {node.name: getattr(node, pick).memory_mb for node in nodes}
            yield _by(f"kago_node_cpu_{what}_millicores", f"CPU {what} of the node.", "node", cpu)
            yield _by(f"kago_node_memory_{what}_mb", f"Memory {what} of the node.", "node", memory)

    def _raft(self) -> Iterator[Metric]:
        status = self._store.status()
        yield _single("kago_raft_leader", "1 on the server that leads.", int(status.role is Role.LEADER))
        yield _single("kago_raft_known_leader", "1 where a leader is known.", int(status.leader is not None))
        yield _single("kago_raft_term", "Raft term.", status.term)
        yield _single("kago_raft_commit_index", "Raft log index known to be committed.", status.raft_commit_index)
        yield _single("kago_raft_applied_index", "Raft log index applied here.", status.raft_applied_index)
        yield _single("kago_state_index", "Index of the state: proposals applied.", status.applied)
        age = status.leader_contact_age_s
        yield _single("kago_raft_leader_contact_age_seconds", "Since the leader was heard; -1: never.", -1 if age is None else age)
        yield _single("kago_watches", "Open watches.", self._store.feed.watchers)


def _single(name: str, help: str, value: float) -> Metric:
    family = GaugeMetricFamily(name, help)
    family.add_metric([], value)
    return family


def _by(name: str, help: str, label: str, values: dict[str, int] | dict[PodStatus, int] | dict[NodeStatus, int]) -> Metric:
    family = GaugeMetricFamily(name, help, labels=[label])
    for key in sorted(values):
        family.add_metric([str(key)], values[key])  # type: ignore[index]
    return family
