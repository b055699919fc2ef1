"""From leases to verdicts, nodes lost and back, and what is forgotten in the end."""

from kago.core.controllers.eviction import Liveness, mark_nodes
from kago.core.model.node import NodeStatus
from kago.core.model.pod import PodStatus
from kago.core.model.report import PodReport
from kago.core.state.commands import MAX_PODS_PER_COMMAND, DeleteNode, NodeReport, RemovePods, ReportPods
from tests.unit.core.small_world import SmallWorld


def world_of(nodes: int = 3, replicas: int = 3) -> SmallWorld:
    world = SmallWorld(node_gc_s=100.0)
    for n in range(nodes):
        world.node(f"n{n}", cpu=300)
    world.deployment(replicas=replicas)
    world.settle()
    return world


def test_verdicts() -> None:
    world = world_of()
    tables = world.tables

    def verdicts(liveness: Liveness) -> list[tuple[str, NodeStatus, str]]:
        return [(v.name, v.status, v.reason) for command in mark_nodes(tables, liveness) for v in command.verdicts]

    assert verdicts(Liveness()) == []
    assert verdicts(Liveness(expired=("n1", "gone"), silent_s={"n1": 5.4})) == [
        ("n1", NodeStatus.UNKNOWN, "lease expired, last heard 5 s ago")
    ]
    assert verdicts(Liveness(leaving=("n2",), expired=("n0",))) == [
        ("n0", NodeStatus.UNKNOWN, "lease expired"), ("n2", NodeStatus.NOTREADY, "its agent was stopped")
    ]
    assert verdicts(Liveness(heard=(("n1", 1),))) == []
    world.liveness = Liveness(leaving=("n1",))
    world.lead()
    assert verdicts(Liveness(leaving=("n1",))) == []
    assert verdicts(Liveness(heard=(("n1", 1),))) == [("n1", NodeStatus.READY, "")]
    assert verdicts(Liveness(heard=(("n1", 2),))) == [], "another life of the agent registers first"
    assert verdicts(Liveness(heard=(("n1", 1),), leaving=("n1",))) == []
    assert verdicts(Liveness(leaving=("n1",), expired=("n1",))) == [("n1", NodeStatus.UNKNOWN, "lease expired")]


def test_many_lost_nodes_are_marked_in_bearable_entries() -> None:
    world = SmallWorld()
    for n in range(8):
        world.node(f"n{n}", cpu=2000, memory=2000)
    world.deployment(replicas=800, cpu=10)
    world.settle()
    commands = mark_nodes(world.tables, Liveness(expired=tuple(f"n{n}" for n in range(8))))
    stopped = [sum(world.tables.nodes[v.name].pods for v in command.verdicts) for command in commands]
    assert sum(stopped) == 800
    assert max(stopped) <= MAX_PODS_PER_COMMAND


def test_a_lost_node_is_replaced_and_its_return_doubles_nothing() -> None:
    world = world_of()
    assert {pod.node_name for pod in world.live()} == {"n0"}
    world.liveness = Liveness(expired=("n0",))
    world.settle(deaf=("n0",))
    assert [node.status.value for node in world.tables.nodes.values()] == ["unknown", "ready", "ready"]
    assert [(pod.node_name, pod.ready) for pod in world.live()] == [("n1", True)] * 3
    assert {pod.reason for pod in world.tables.pods_of_node("n0")} == {"NodeLost"}
    kept = [pod.id for pod in world.live()]
    world.liveness = Liveness(heard=(("n0", 1),))
    world.settle()
    assert [node.status.value for node in world.tables.nodes.values()] == ["ready"] * 3
    assert [pod.id for pod in world.live()] == kept
    assert len(world.tables.pods) == 3


def test_a_leaving_node_keeps_its_pods_and_gets_no_more() -> None:
    world = world_of()
    kept = [pod.id for pod in world.live()]
    world.liveness = Liveness(leaving=("n0",))
    world.settle()
    assert [pod.id for pod in world.live()] == kept
    world.deployment("more", replicas=2)
    world.settle()
    assert {pod.node_name for pod in world.live("more")} == {"n1"}


def test_the_next_expiry_wakes_the_leader() -> None:
    world = world_of()
    world.liveness = Liveness(next_expiry=world.now + 3.0)
    assert world.round().wake_at == world.now + 3.0


def test_a_node_that_does_not_come_back_is_forgotten() -> None:
    world = world_of()
    world.liveness = Liveness(expired=("n0",))
    world.settle(deaf=("n0",))
    since = world.tables.nodes["n0"].status_since
    assert world.round().wake_at == since + 100.0
    world.now = since + 100.0
    (command,) = world.round().commands
    assert command == DeleteNode(name="n0")
    world.settle()
    assert sorted(world.tables.nodes) == ["n1", "n2"]
    assert {pod.node_name for pod in world.tables.pods.values()} == {"n1"}


def test_a_pod_that_ended_is_removed_after_a_while_and_followed_by_another() -> None:
    world = world_of()
    ended = world.live()[0]
    report = PodReport(pod_id=ended.id, status=PodStatus.FAILED, exit_code=1)
    world.do(ReportPods(reports=(NodeReport(node_name="n0", node_id="id-n0", incarnation=1, pods=(report,)),)))
    decided = world.round()
    assert decided.commands == ()
    assert decided.wake_at == ended.created_at + 10.0
    world.now = ended.created_at + 10.0
    assert world.round().commands == (RemovePods(epoch=1, ids=(ended.id,)),)
    world.settle()
    assert world.web().ready_replicas == 3
    assert ended.id not in world.tables.pods
