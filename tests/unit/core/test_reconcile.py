"""The leader's round: it ends, it is bounded, it costs nothing when nothing changed, and a new leader takes it over half-way."""

from hypothesis import given, settings
from hypothesis import strategies as st

from kago.core.controllers.eviction import Liveness
from kago.core.model.deployment import DeploymentPatch, RollingUpdate, Strategy
from kago.core.model.pod import Pod
from kago.core.reconcile import MAX_COMMANDS_PER_ROUND, MAX_PODS_PER_ROUND, Reconciler
from kago.core.state.commands import MAX_PODS_PER_COMMAND, AssignPods, CreatePods, StopPods
from kago.core.state.tables import Tables
from tests.unit.core.small_world import SmallWorld


def test_an_empty_cluster_has_nothing_to_do() -> None:
    world = SmallWorld()
    assert world.round().commands == ()
    assert world.round().wake_at is None


def test_a_settled_cluster_has_nothing_to_do_for_a_new_leader_either() -> None:
    world = SmallWorld()
    world.node("n1")
    world.deployment(replicas=3)
    world.deployment("large", replicas=2, cpu=5000)
    world.settle()
    world.reconciler = Reconciler(strategy=Strategy.FIRST_FIT)
    world.reconciler.reset(world.tables)
    assert world.round().commands == ()


def test_a_round_is_bounded_and_its_commands_too() -> None:
    world = SmallWorld()
    for n in range(40):
        world.node(f"n{n:02}", cpu=4000, memory=4000)
    for n in range(30):
        world.deployment(f"d{n}", replicas=2)
    world.deployment("large", replicas=6100, cpu=10)
    rounds = 0
    while (decided := world.round()).commands:
        rounds += 1
        assert len(decided.commands) <= MAX_COMMANDS_PER_ROUND
        assert decided.wake_at == world.now
        made = sum(command.count for command in decided.commands if isinstance(command, CreatePods))
        bound = sum(len(command.assignments) for command in decided.commands if isinstance(command, AssignPods))
        assert 0 < made + bound <= MAX_PODS_PER_ROUND
        for command in decided.commands:
            if isinstance(command, CreatePods):
                assert command.count <= MAX_PODS_PER_COMMAND
            if isinstance(command, AssignPods):
                assert len(command.assignments) <= MAX_PODS_PER_COMMAND
            if isinstance(command, StopPods):
                assert len(command.ids) <= MAX_PODS_PER_COMMAND
            world.do(command)
    assert rounds < 12
    assert sum(pod.node_name is not None for pod in world.tables.pods.values()) == 6160


def test_what_was_lost_is_decided_again() -> None:
    world = SmallWorld()
    world.node("n1")
    world.deployment(replicas=2)
    first = world.round()
    assert first.commands
    assert world.round() == first


class AskedTables(Tables):
    """Remembers whose pods were walked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def live_pods(self, name: str) -> list[Pod]:
        self.asked.append(name)
        return super().live_pods(name)


def test_a_rollout_that_waits_is_looked_at_when_something_of_it_changes_or_its_time_has_come() -> None:
    tables = AskedTables()
    world = SmallWorld(tables=tables)
    world.node("n1", cpu=9000, memory=9000)
    world.deployment("other")
    world.deployment(rolling=RollingUpdate(max_surge=1, max_unavailable=0, min_ready_s=30.0))
    world.settle()
    world.update(DeploymentPatch(image="nginx:2"))
    world.lead()
    while world.agents():
        decided = world.lead()
    (ready,) = [pod for pod in world.live() if pod.revision == 2]
    assert ready.ready_at is not None and decided.wake_at == ready.ready_at + 30.0
    tables.asked.clear()
    world.update(DeploymentPatch(image="nginx:2"), "other")
    world.lead()
    assert set(tables.asked) == {"other"}
    world.now = decided.wake_at
    assert [command for command in world.round().commands if isinstance(command, StopPods) and command.reason == "Replaced"]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_leaders_come_and_go_nodes_too_and_it_ends_as_wanted(data: st.DataObject) -> None:
    strategy = data.draw(st.sampled_from(list(Strategy)))
    world = SmallWorld(strategy=strategy)
    for n in range(3):
        world.node(f"n{n}", cpu=2000, memory=2000)
    world.deployment(replicas=4, rolling=RollingUpdate(max_surge=1, max_unavailable=1, min_ready_s=0.2))
    down: tuple[str, ...] = ()
    for step in range(data.draw(st.integers(0, 12))):
        match data.draw(st.sampled_from(["leader", "down", "up", "update", "scale", "agents", "partly"])):
            case "leader":
                world.reconciler = Reconciler(strategy=strategy)
                world.reconciler.reset(world.tables)
            case "down":
                down = (f"n{step % 3}",)
                world.liveness = Liveness(expired=down)
            case "up":
                world.liveness, down = Liveness(heard=tuple((f"n{n}", 1) for n in range(3))), ()
            case "update":
                world.update(DeploymentPatch(image=f"nginx:{step}"))
            case "scale":
                world.update(DeploymentPatch(replicas=step % 6))
            case "agents":
                world.agents(deaf=down)
                world.now += 0.1
            case _:
                for command in world.round().commands[:1]:
                    world.do(command)
    world.liveness = Liveness(heard=tuple((f"n{n}", 1) for n in range(3)))
    world.settle()
    web = world.web()
    assert [(pod.revision, pod.ready) for pod in world.live()] == [(web.revision, True)] * web.replicas
    assert len(world.tables.pods) == web.replicas
