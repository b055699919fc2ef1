"""Rollouts in a small world: what is wanted comes to be, and on no step fewer are available or more alive than allowed."""

from collections.abc import Callable
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kago.core.model.deployment import DeploymentPatch, RollingUpdate, RollingUpdatePatch
from kago.core.state.commands import CreatePods, DeleteDeployment, DeletePod, StopPods
from tests.unit.core.small_world import SmallWorld

LIMITS = [(s, u) for s, u in product(range(4), range(4)) if s or u]


def running(replicas: int, surge: int = 1, unavailable: int = 0) -> SmallWorld:
    world = SmallWorld()
    for n in range(4):
        world.node(f"n{n}", cpu=4000, memory=4000)
    world.deployment(replicas=replicas, rolling=RollingUpdate(max_surge=surge, max_unavailable=unavailable, min_ready_s=1.0))
    world.settle()
    return world


def held_to_limits(world: SmallWorld) -> Callable[[], None]:
    """A check that the limits hold; pods that count as ready are counted as available, which the rollout itself sees later."""

    def check() -> None:
        web, live = world.web(), world.live()
        assert len(live) <= web.replicas + web.rolling_update.max_surge
        assert sum(pod.ready for pod in live) >= web.replicas - web.rolling_update.max_unavailable

    return check


@pytest.mark.parametrize("replicas", range(1, 7))
@pytest.mark.parametrize(("surge", "unavailable"), LIMITS)
def test_update_stays_within_its_limits_and_ends(replicas: int, surge: int, unavailable: int) -> None:
    world = running(replicas, surge, unavailable)
    world.watch = held_to_limits(world)
    world.update(DeploymentPatch(image="nginx:2"))
    world.settle()
    assert [(pod.revision, pod.ready) for pod in world.live()] == [(2, True)] * replicas
    assert len(world.tables.pods) == replicas


@pytest.mark.parametrize("replicas", range(1, 7))
@pytest.mark.parametrize(("surge", "unavailable"), LIMITS)
def test_broken_update_stops_and_another_revision_gets_through(replicas: int, surge: int, unavailable: int) -> None:
    world = running(replicas, surge, unavailable)
    world.watch = held_to_limits(world)
    world.heals = lambda pod: pod.revision != 2
    world.update(DeploymentPatch(image="broken"))
    world.settle()
    assert any(pod.revision == 2 for pod in world.live())
    assert world.web().ready_replicas >= replicas - unavailable
    world.update(DeploymentPatch(image="nginx:1"))
    world.settle()
    assert [(pod.revision, pod.ready) for pod in world.live()] == [(3, True)] * replicas


@pytest.mark.parametrize(("first", "then"), [(0, 3), (3, 0), (1, 6), (6, 1), (3, 3), (2, 1200)])
def test_scaling(first: int, then: int) -> None:
    world = running(first)
    for n in range(20, 60):
        world.node(f"n{n}", cpu=4000, memory=4000)
    kept = [pod.id for pod in world.live()]
    world.update(DeploymentPatch(replicas=then))
    world.settle()
    assert world.web().ready_replicas == world.web().total_replicas == then
    assert len(set(kept) & {pod.id for pod in world.live()}) == min(first, then)


def test_scale_down_takes_the_unbound_then_the_unready_then_the_youngest() -> None:
    world = running(2)
    old = [pod.id for pod in world.live()]
    world.now += 5
    world.heals = lambda pod: False
    world.update(DeploymentPatch(replicas=3))
    world.settle()
    world.heals = lambda pod: pod.id in old
    unready = next(pod.id for pod in world.live() if pod.id not in old)
    world.do(CreatePods(epoch=1, deployment_name="web", revision=1, total_replicas=3, count=1))
    unbound = next(pod.id for pod in world.live() if pod.node_name is None)
    world.update(DeploymentPatch(replicas=1))
    (command,) = [c for c in world.round().commands if isinstance(c, StopPods)]
    assert command.ids[:2] == (unbound, unready)
    assert len(command.ids) == 3


def test_a_new_pod_counts_only_after_min_ready_and_the_round_says_when_to_come_back() -> None:
    world = running(1)
    world.update(DeploymentPatch(image="nginx:2"))
    while world.web().ready_replicas < 2:
        world.lead()
        world.agents()
        world.now += 0.1
    new = next(pod for pod in world.live() if pod.revision == 2)
    decided = world.lead()
    assert new.ready_at is not None
    assert decided.wake_at == pytest.approx(new.ready_at + 1.0)
    assert len(world.live()) == 2
    world.now = new.ready_at + 1.001
    world.lead()
    assert [pod.id for pod in world.live()] == [new.id]


@pytest.mark.parametrize("ahead_s", [0.5, 31.0, 1e6])
def test_a_clock_that_is_ahead_holds_no_rollout_up(ahead_s: float) -> None:
    world = running(3)
    world.ahead_s = ahead_s
    began = world.now
    world.update(DeploymentPatch(image="nginx:2"))
    while any(pod.revision == 1 for pod in world.live()):
        assert world.now < began + 6, "three steps of a second each, and what the agents take"
        world.lead()
        world.agents()
        world.now += 0.1
    assert world.now > began + 2.9, "each of the three was looked at for its second"


def test_replaced_deleted_and_unplaceable_pods() -> None:
    world = running(3)
    world.do(DeletePod(id=world.live()[0].name))
    world.settle()
    assert world.web().ready_replicas == 3
    world.update(DeploymentPatch(node_selector={"disk": "none"}))
    world.settle()
    assert (world.web().ready_replicas, world.web().total_replicas) == (3, 4)
    world.update(DeploymentPatch(node_selector={}))
    world.settle()
    assert [pod.revision for pod in world.live()] == [3, 3, 3]
    world.do(DeleteDeployment(name="web"))
    world.settle()
    assert world.tables.pods == {}


ACTIONS = st.one_of(
    st.builds(lambda n: DeploymentPatch(replicas=n), st.integers(0, 6)),
    st.builds(lambda n: DeploymentPatch(image=f"nginx:{n}"), st.integers(1, 3)),
    st.builds(
        lambda su: DeploymentPatch(rolling_update=RollingUpdatePatch(max_surge=su[0], max_unavailable=su[1], min_ready_s=0.5)),
        st.sampled_from(LIMITS),
    ),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(ACTIONS, st.integers(0, 6)), max_size=6), st.integers(0, 6))
def test_whatever_users_ask_on_the_way_it_ends_as_wanted(actions: list[tuple[DeploymentPatch, int]], pause: int) -> None:
    world = running(3)
    for patch, steps in [(DeploymentPatch(), pause), *actions]:
        world.update(patch)
        for _ in range(steps):
            world.lead()
            web = world.web()
            assert len(world.live()) <= web.replicas + web.rolling_update.max_surge
            world.agents()
            world.now += 0.2
    world.settle()
    web = world.web()
    assert [(pod.revision, pod.ready) for pod in world.live()] == [(web.revision, True)] * web.replicas
