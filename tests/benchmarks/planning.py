"""The scheduler alone: how many pods a second it places on 5,000 nodes, and how that grows with nodes and pods."""

import gc
import time
from collections.abc import Callable, Mapping

from kago.core.model.deployment import Deployment, Runtime, Strategy
from kago.core.model.node import Node
from kago.core.model.pod import Pod
from kago.core.model.resources import Resources
from kago.core.scheduler.plan import Scheduler
from kago.core.state.changes import Put
from kago.core.state.tables import Tables
from tests.benchmarks.figures import Curve, Figure, Goal
from tests.benchmarks.session import KAGO, Bench, Probe, Session

ALIKE = {
    strategy: Figure(name=f"planning, identical pods, {strategy}", unit="pods/s", goal=Goal(at_least=True, plus=100_000))
    for strategy in Strategy
}
MIXED = Figure(name="planning, mixed pods with constraints", unit="pods/s", goal=Goal(at_least=True, plus=20_000))
NODES, PODS = 5_000, 10_000
ZONES, SIZES, DEPLOYMENTS = 8, 6, 200
"""Of the mixed ones: values of a label that pods ask for, sizes of pods, deployments they belong to."""


def run(session: Session) -> None:
    nodes, pods = (500, 1_000) if session.quick else (NODES, PODS)
    if session.quick:
        session.reduce(BENCH.figures, f"{nodes} nodes and {pods:,} pods")
    probes = [Probe(side=KAGO, figures=(figure,), take=_alike(figure, strategy, nodes, pods)) for strategy, figure in ALIKE.items()]
    session.interleave([*probes, Probe(side=KAGO, figures=(MIXED,), take=_mixed(nodes, pods))])
    for n in (nodes // 10, nodes):
        _check(n, pods // 10)
    grown = [nodes // 25, nodes // 5, nodes]
    session.curves.append(_curve("planning by nodes", "nodes", [(n, _best_s(lambda n=n: _tables(n, pods), pods)) for n in grown]))  # type: ignore[misc]
    grown = [pods // 25, pods // 5, pods]
    session.curves.append(_curve("planning by pods", "pods", [(n, _best_s(lambda n=n: _tables(nodes, n), n)) for n in grown]))  # type: ignore[misc]


BENCH = Bench(name="planning", about="the scheduler alone, 10,000 pods on 5,000 nodes", figures=(*ALIKE.values(), MIXED), run=run)


def _alike(figure: Figure, strategy: Strategy, nodes: int, pods: int) -> Callable[[], Mapping[Figure, float]]:
    return lambda: {figure: pods / _plan_s(_tables(nodes, pods), strategy, pods)}


def _mixed(nodes: int, pods: int) -> Callable[[], Mapping[Figure, float]]:
    return lambda: {MIXED: pods / _plan_s(_tables(nodes, pods, mixed=True), Strategy.LEAST_ALLOCATED, pods)}


def _plan_s(tables: Tables, strategy: Strategy, pods: int) -> float:
    """From a scheduler that knows the tables to a plan with a node for each pod."""
    scheduler = Scheduler(strategy)
    scheduler.reset(tables)
    gc.collect()
    began = time.perf_counter()
    plan = scheduler.plan(tables, monotonic=0.0, max_assignments=pods, max_unplaced=pods)
    took_s = time.perf_counter() - began
    assert len(plan.assignments) == pods and not plan.unplaced, f"{len(plan.assignments)} of {pods} placed"
    return took_s


def _check(nodes: int, pods: int) -> None:
    """A plan keeps to what nodes have and to what pods ask for."""
    tables = _tables(nodes, pods, mixed=True)
    scheduler = Scheduler(Strategy.LEAST_ALLOCATED)
    scheduler.reset(tables)
    used: dict[str, int] = {}
    for one in scheduler.plan(tables, monotonic=0.0, max_assignments=pods, max_unplaced=pods).assignments:
        pod, node = tables.pods[one.pod_id], tables.nodes[one.node_name]
        assert all(node.labels.get(key) == value for key, value in pod.node_selector.items())
        used[node.name] = used.get(node.name, 0) + pod.resources.cpu_millis
        assert used[node.name] <= node.allocatable.cpu_millis


def _best_s(make: Callable[[], Tables], pods: int) -> float:
    return min(_plan_s(make(), Strategy.LEAST_ALLOCATED, pods) for _ in range(3))


def _curve(name: str, x: str, points: list[tuple[int, float]]) -> Curve:
    return Curve(name=name, x=x, y="seconds for the plan", points=tuple((float(n), took_s) for n, took_s in points))


def _tables(nodes: int, pods: int, *, mixed: bool = False) -> Tables:
    tables = Tables()
    room = Resources(cpu_millis=32_000, memory_mb=65_536)
    changes: list[Put] = [
        Put(
            Node(
                name=f"node-{n:05d}", id=f"id-{n}", address="10.0.0.1", port=8081, capacity=room, allocatable=room, available=room,
                labels={"zone": f"z{n % ZONES}"}, runtimes=(Runtime.DOCKER,),
            )
        )
        for n in range(nodes)
    ]  # fmt: skip
    deployments = DEPLOYMENTS if mixed else 1
    for n in range(deployments):
        changes.append(Put(Deployment(name=f"web-{n}", image="nginx:alpine", replicas=pods // deployments)))
    for n in range(pods):
        of = n % deployments
        size = Resources(cpu_millis=100 * (1 + of % SIZES), memory_mb=128 * (1 + of % SIZES)) if mixed else Resources()
        selector = {"zone": f"z{of % ZONES}"} if mixed and of % 2 else {}
        changes.append(
            Put(
                Pod(
                    id=f"pod-{n:06d}", name=f"web-{of}-{n:06d}", deployment_name=f"web-{of}", revision=1, image="nginx:alpine",
                    resources=size, node_selector=selector, created_at=float(of),
                )
            )
        )  # fmt: skip
    tables.absorb(1, changes)
    return tables
