"""The scheduler against the plain definition of each strategy, and what it says of pods it cannot place."""

from collections import Counter
from collections.abc import Iterable, Mapping

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from kago.core.model.deployment import Deployment, Runtime, Strategy
from kago.core.model.node import Node, NodeStatus
from kago.core.model.pod import Pod
from kago.core.model.resources import Resources
from kago.core.scheduler.filters import NO_NODES, Room, Shape, accepts, explain, refusal
from kago.core.scheduler.plan import MAX_ASKED, Scheduler
from kago.core.state.changes import Change, Put, Removed
from kago.core.state.commands import Assignment, AssignPods, ExplainPods
from kago.core.state.tables import Tables
from tests.unit.core.small_world import SmallWorld


def a_node(name: str, *, cpu: int = 1000, memory: int = 1000, used_cpu: int = 0, used_memory: int = 0,
           status: NodeStatus = NodeStatus.READY, labels: dict[str, str] | None = None) -> Node:
    whole, used = Resources(cpu_millis=cpu, memory_mb=memory), Resources(cpu_millis=used_cpu, memory_mb=used_memory)
    return Node(
        name=name, id=name, address="127.0.0.1", port=1, capacity=whole, allocatable=whole, used=used, available=whole.minus(used),
        status=status, labels=labels or {}, runtimes=(Runtime.DOCKER,),
    )


def a_pod(name: str, deployment: str = "web", *, cpu: int = 100, memory: int = 100, selector: dict[str, str] | None = None) -> Pod:
    return Pod(id=name, name=name, deployment_name=deployment, revision=1, image="x", node_selector=selector or {},
               resources=Resources(cpu_millis=cpu, memory_mb=memory))


def chosen(strategy: Strategy, nodes: list[Node], pods: list[Pod]) -> list[str | None]:
    tables = Tables()
    tables.absorb(1, [*(Put(node) for node in nodes), *(Put(pod) for pod in pods)])
    scheduler = Scheduler(strategy)
    scheduler.reset(tables)
    plan = scheduler.plan(tables, monotonic=0.0, max_assignments=10_000, max_unplaced=10_000)
    bound = {assignment.pod_id: assignment.node_name for assignment in plan.assignments}
    assert {unplaced.pod_id for unplaced in plan.unplaced} == {pod.id for pod in pods} - set(bound)
    return [bound.get(pod.id) for pod in pods]


def test_the_four_strategies() -> None:
    nodes = [
        a_node("a-full", used_cpu=950, used_memory=950),
        a_node("b-half", used_cpu=500, used_memory=500),
        a_node("c-lopsided", used_cpu=100, used_memory=600),
        a_node("d-large", cpu=4000, memory=4000),
        a_node("e-fuller", used_cpu=800, used_memory=780),
    ]
    expected = {
        Strategy.FIRST_FIT: "b-half", Strategy.BEST_FIT: "e-fuller", Strategy.LEAST_ALLOCATED: "d-large", Strategy.BALANCED: "b-half",
    }
    assert {strategy: chosen(strategy, nodes, [a_pod("p")])[0] for strategy in Strategy} == expected


def test_balanced_levels_what_is_uneven() -> None:
    nodes = [a_node("a"), a_node("c-lopsided", used_cpu=100, used_memory=600)]
    assert chosen(Strategy.BALANCED, nodes, [a_pod("p", cpu=500)]) == ["c-lopsided"]


def test_ties_go_to_the_node_with_fewer_pods_of_the_deployment_then_by_name() -> None:
    nodes = [a_node(name) for name in "cba"]
    pods = [a_pod(f"web-{n}") for n in range(4)]
    assert chosen(Strategy.BALANCED, nodes, pods) == ["a", "b", "c", "a"]
    assert chosen(Strategy.LEAST_ALLOCATED, nodes, pods) == ["a", "b", "c", "a"]
    assert chosen(Strategy.FIRST_FIT, nodes, pods) == ["a"] * 4
    assert chosen(Strategy.BEST_FIT, nodes, pods) == ["a"] * 4


def naive(strategies: Mapping[str, Strategy], nodes: list[Node], pods: list[Pod], bound: Iterable[Pod] = ()) -> list[str | None]:
    """The definition of the strategies (by deployment), every node scored anew for each pod, floats replaced by the same millionths."""
    free = {node.name: [node.available.cpu_millis, node.available.memory_mb] for node in nodes}
    held = Counter((pod.node_name, pod.deployment_name) for pod in bound)
    result: list[str | None] = []
    for pod in pods:
        best: tuple[int, int, str] | None = None
        for node in nodes:
            cpu, memory = free[node.name][0] - pod.resources.cpu_millis, free[node.name][1] - pod.resources.memory_mb
            selected = all(node.labels.get(k) == v for k, v in pod.node_selector.items())
            if min(cpu, memory) < 0 or node.status is not NodeStatus.READY or not selected:
                continue
            full_cpu = (node.allocatable.cpu_millis - cpu) * 1_000_000 // node.allocatable.cpu_millis
            full_memory = (node.allocatable.memory_mb - memory) * 1_000_000 // node.allocatable.memory_mb
            pods_there = held[node.name, pod.deployment_name]
            key = {
                Strategy.FIRST_FIT: (0, 0, node.name),
                Strategy.BEST_FIT: (-full_cpu - full_memory, 0, node.name),
                Strategy.LEAST_ALLOCATED: (full_cpu + full_memory, pods_there, node.name),
                Strategy.BALANCED: (abs(full_cpu - full_memory), pods_there, node.name),
            }[strategies[pod.deployment_name]]
            best = key if best is None else min(best, key)
        result.append(best[2] if best else None)
        if best:
            free[best[2]][0] -= pod.resources.cpu_millis
            free[best[2]][1] -= pod.resources.memory_mb
            held[best[2], pod.deployment_name] += 1
    return result


NODES = st.lists(
    st.tuples(st.sampled_from([400, 800, 1000]), st.sampled_from([400, 1000]), st.integers(0, 4), st.integers(0, 4), st.integers(0, 5)),
    max_size=7,
)
PODS = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([50, 100]), st.sampled_from([50, 100, 130]), st.booleans()), max_size=40)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(list(Strategy)), NODES, PODS)
def test_same_as_the_plain_definition(
    strategy: Strategy, nodes: list[tuple[int, int, int, int, int]], pods: list[tuple[str, int, int, bool]]
) -> None:
    made = [
        a_node(f"n{n}", cpu=cpu, memory=memory, used_cpu=50 * x, used_memory=50 * y, labels={"disk": "fast"} if kind % 2 else {},
               status=NodeStatus.UNKNOWN if kind == 4 else NodeStatus.READY)
        for n, (cpu, memory, x, y, kind) in enumerate(nodes)
    ]
    # One shape a deployment, as in life: all pods of a revision are alike.
    shapes = {name: (cpu, memory, fast) for name, cpu, memory, fast in pods}
    wanted = [
        a_pod(f"{name}-{n:03}", name, cpu=shapes[name][0], memory=shapes[name][1], selector={"disk": "fast"} if shapes[name][2] else None)
        for n, (name, *_) in enumerate(pods)
    ]
    wanted.sort(key=lambda pod: pod.name)
    assert chosen(strategy, made[::-1], wanted) == naive(dict.fromkeys("abc", strategy), made, wanted)


SIZES = {"a": (100, 100), "b": (100, 100), "c": (50, 120), "d": (130, 60)}
"""CPU and memory of the deployments' pods; a and b are alike, c asks for a label."""
STEPS = st.lists(
    st.tuples(
        st.integers(0, 5), st.sampled_from(["gone", "down", "small", "large", "fast"]), st.sampled_from("abcd"), st.integers(0, 9),
        st.integers(0, 4), st.integers(1, 4),
    ),
    max_size=14,
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(list(Strategy)), min_size=4, max_size=4), STEPS)
def test_kept_from_round_to_round_it_plans_by_the_definition(own: list[Strategy], steps: list[tuple[int, str, str, int, int, int]]) -> None:
    """Rounds between which nodes come, change and go, pods come and end, and plans are lost in part or late."""
    tables, kept, strategies = Tables(), Scheduler(Strategy.FIRST_FIT), dict(zip("abcd", own, strict=True))
    kept.reset(tables)

    def absorb(*changes: Change) -> None:
        tables.absorb(tables.index + 1, changes)
        for change in changes:
            kept.observe(change, tables)

    def set_node(name: str, kind: str = "") -> None:
        """As the handlers do: what bound pods use is taken off, whatever else changes."""
        known, pods = tables.nodes.get(name), tables.pods_of_node(name)
        cpu, memory = (sum(of) for of in zip((0, 0), *((p.resources.cpu_millis, p.resources.memory_mb) for p in pods), strict=True))
        whole = {"small": 300, "large": 900}.get(kind) or (known.allocatable.cpu_millis if known else 500)
        labels = {"disk": "fast"} if kind == "fast" else known.labels if known else {}
        status = NodeStatus.UNKNOWN if kind == "down" else NodeStatus.READY
        absorb(Put(a_node(name, cpu=whole, memory=whole, used_cpu=cpu, used_memory=memory, labels=labels, status=status), known))

    def bind(assignments: Iterable[Assignment]) -> None:
        unplaced, nodes = tables.unplaced_ids, tables.nodes
        pods = [(tables.pods[a.pod_id], a.node_name) for a in assignments if a.pod_id in unplaced and a.node_name in nodes]
        absorb(*(Put(replace(pod, node_name=name), pod) for pod, name in pods))
        for name in {name: None for _, name in pods}:
            set_node(name, "down" if tables.nodes[name].status is NodeStatus.UNKNOWN else "")

    late: list[Assignment] = []
    absorb(*(Put(Deployment(name=name, scheduler=strategy)) for name, strategy in strategies.items()))
    for n in range(4):
        set_node(f"n{n}", "fast" if n == 2 else "")
    for step, (node, kind, deployment, count, ended, lost) in enumerate(steps):
        placed = sorted((pod for pod in tables.pods.values() if pod.node_name), key=lambda pod: pod.id[::-1])
        gone = [pod for pod in placed if kind == "gone" and pod.node_name == f"n{node}"] or placed[:ended]
        absorb(*(Removed(pod) for pod in gone))
        for name in {pod.node_name: None for pod in gone if pod.node_name}:
            set_node(name)
        if kind != "gone":
            set_node(f"n{node}", kind)
        elif known := tables.nodes.get(f"n{node}"):
            absorb(Removed(known))
        cpu, memory = SIZES[deployment]
        selector = {"disk": "fast"} if deployment == "c" else None
        absorb(*(Put(a_pod(f"{deployment}-{step:02}-{n}", deployment, cpu=cpu, memory=memory, selector=selector)) for n in range(count)))
        wanted = sorted((tables.pods[id] for id in tables.unplaced_ids), key=lambda pod: pod.name)
        expected = naive(strategies, list(tables.nodes.values()), wanted, tables.pods.values())
        plan = kept.plan(tables, monotonic=100.0 * step, max_assignments=100, max_unplaced=100)
        assert {a.pod_id: a.node_name for a in plan.assignments} == {p.id: n for p, n in zip(wanted, expected, strict=True) if n}
        # Those that fit nowhere are given up; of the others some are bound, one after the next plan only.
        bind(one for n, one in enumerate(plan.assignments) if n % 4 != lost)
        bind(late)
        late = [one for n, one in enumerate(plan.assignments) if n == lost]
        absorb(*(Removed(p) for p, name in zip(wanted, expected, strict=True) if name is None and p.id in tables.unplaced_ids))


def test_a_node_that_holds_another_deployments_pod_instead_counts_as_holding_less() -> None:
    """What is free there is the same as before: a plan that was taken for lost was applied after all, and just then a pod ended."""
    tables, scheduler = Tables(), Scheduler(Strategy.LEAST_ALLOCATED)
    web = [replace(a_pod(f"web-{n}"), node_name=name) for n, name in enumerate(("a", "b"))]
    nodes = [a_node(name, used_cpu=100, used_memory=100) for name in "ab"]
    tables.absorb(1, [*map(Put, nodes), *map(Put, web), Put(a_pod("web-2"))])
    scheduler.reset(tables)

    def placed() -> list[str]:
        return [one.node_name for one in scheduler.plan(tables, monotonic=0.0, max_assignments=9, max_unplaced=9).assignments]

    assert placed() == ["a"]
    for change in (Removed(web[1]), Put(replace(a_pod("api-0", "api"), node_name="b"))):
        tables.absorb(tables.index + 1, [change])
        scheduler.observe(change, tables)
    assert placed() == ["b"]


def test_every_filter_explains_itself_and_agrees_with_accepts() -> None:
    shape = Shape(500, 300, Runtime.DOCKER, (("disk", "fast"),), Strategy.FIRST_FIT)
    fast = {"disk": "fast"}
    other = Shape(500, 300, Runtime.PROCESS, (), Strategy.FIRST_FIT)
    cases = [
        (a_node("n", labels=fast), shape, ""),
        (a_node("n", labels=fast, status=NodeStatus.UNKNOWN), shape, "unknown"),
        (a_node("n"), shape, "lacks label disk=fast"),
        (a_node("n", labels=fast, used_cpu=800), shape, "needs 500m cpu, 200m available"),
        (a_node("n", labels=fast, used_cpu=800, used_memory=999), shape,
         "needs 500m cpu, 200m available and needs 300Mi memory, 1Mi available"),
        (a_node("n"), other, "needs runtime process, offers docker"),
    ]
    for node, asked, words in cases:
        assert refusal(Room(node), asked) == words
        assert accepts(Room(node), asked) is (words == "")


def test_the_message_groups_nodes_and_stays_short() -> None:
    shape = Shape(500, 300, Runtime.DOCKER, (), Strategy.FIRST_FIT)
    rooms = [Room(a_node("n1", used_cpu=800)), Room(a_node("n2", used_cpu=800)), Room(a_node("n3", status=NodeStatus.UNKNOWN))]
    assert explain(rooms, shape) == "0/3 nodes fit: n1, n2: needs 500m cpu, 200m available; n3: unknown"
    assert explain([], shape) == NO_NODES
    many = [Room(a_node(f"node-{n:04}", used_cpu=501 + n % 400)) for n in range(5000)]
    message = explain(many, shape)
    assert message.startswith("0/5000 nodes fit: ") and "and 4922 more" in message
    assert len(message) < 1000


def test_an_unplaceable_pod_is_told_once_and_placed_when_a_node_comes() -> None:
    world = SmallWorld()
    world.deployment(replicas=3, cpu=400)
    world.settle()
    assert {(pod.reason, pod.message) for pod in world.live()} == {("Unschedulable", NO_NODES)}
    world.node("n1", cpu=900)
    decided = world.round()
    assert [len(c.assignments) for c in decided.commands if isinstance(c, AssignPods)] == [2]
    assert not [c for c in decided.commands if isinstance(c, ExplainPods)]
    world.settle()
    (waiting,) = [pod for pod in world.live() if pod.node_name is None]
    assert waiting.message == "0/1 nodes fit: n1: needs 400m cpu, 100m available and needs 400Mi memory, 224Mi available"
    world.node("n2", cpu=900)
    world.settle()
    assert world.web().ready_replicas == 3
    assert {pod.message for pod in world.live()} == {""}


def test_many_kinds_of_waiting_pods_are_explained_in_several_plans() -> None:
    """A leader that asked each of many nodes for each of many kinds at once would be busy for so long that it is taken for dead."""
    tables, scheduler = Tables(), Scheduler(Strategy.FIRST_FIT)
    nodes = [a_node(f"n{n:03}", cpu=100) for n in range(300)]
    pods = [a_pod(f"d{n:03}-1", f"d{n:03}", cpu=200 + n) for n in range(100)]
    tables.absorb(1, [*map(Put, nodes), *map(Put, pods)])
    scheduler.reset(tables)
    plan = scheduler.plan(tables, monotonic=0.0, max_assignments=500, max_unplaced=500)
    assert (len(plan.unplaced), plan.cut) == (MAX_ASKED // len(nodes), True)
    for told in plan.unplaced:
        pod = tables.pods[told.pod_id]
        change = Put(replace(pod, reason=told.reason, message=told.message), pod)
        tables.absorb(tables.index + 1, [change])
        scheduler.observe(change, tables)
    rest = scheduler.plan(tables, monotonic=0.1, max_assignments=500, max_unplaced=500)
    assert [told.pod_id for told in (*plan.unplaced, *rest.unplaced)] == [pod.id for pod in pods]
    assert (rest.cut, rest.again_at) == (False, None)
    assert all(told.message.startswith("0/300 nodes fit: n000, n001") for told in (*plan.unplaced, *rest.unplaced))


def test_a_lost_plan_is_made_again() -> None:
    world = SmallWorld()
    world.node("n1")
    world.deployment(replicas=2)
    (create,) = world.round().commands
    world.do(create)
    lost = world.round()
    assert [len(c.assignments) for c in lost.commands if isinstance(c, AssignPods)] == [2]
    assert world.round() == lost
    world.settle()
    assert world.web().ready_replicas == 2


def test_a_deployment_may_have_its_own_strategy() -> None:
    world = SmallWorld(strategy=Strategy.FIRST_FIT)
    for name in ("n1", "n2"):
        world.node(name)
    world.deployment("web", replicas=2)
    world.deployment("own", replicas=2, scheduler=Strategy.LEAST_ALLOCATED)
    world.settle()
    assert {pod.node_name for pod in world.live("web")} == {"n1"}
    assert {pod.node_name for pod in world.live("own")} == {"n1", "n2"}


def test_limits_of_a_plan() -> None:
    tables, scheduler = Tables(), Scheduler(Strategy.FIRST_FIT)
    tables.absorb(1, [Put(Deployment(name="web")), Put(a_node("n", cpu=500)), *(Put(a_pod(f"p{n}")) for n in range(9))])
    scheduler.reset(tables)
    plan = scheduler.plan(tables, monotonic=0.0, max_assignments=3, max_unplaced=2)
    assert (len(plan.assignments), plan.cut) == (3, True)
