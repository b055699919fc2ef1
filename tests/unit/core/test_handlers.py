"""What the transcripts do not tell: limits, corners and the order of things within one command."""

import msgspec
import pytest
from msgspec.structs import replace

from kago.core.model.deployment import DeploymentPatch, DeploymentSpec, Network, PullPolicy, ResourcesPatch, Runtime
from kago.core.model.node import NodeStatus
from kago.core.model.pod import Desired, PodStatus
from kago.core.model.report import PodReport
from kago.core.model.resources import Resources
from kago.core.state import commands as c
from kago.core.state.handlers.reports import MAX_MESSAGE, MAX_WORD
from kago.core.state.rejections import Refusal
from tests.unit.core.stage import Stage, registration


@pytest.fixture
def stage() -> Stage:
    """A cluster with nodes n1 and n2 of one core and 1 GiB each."""
    stage = Stage()
    stage.node("n1")
    stage.node("n2")
    return stage


@pytest.mark.parametrize("patch", [
    DeploymentPatch(image="nginx:2"), DeploymentPatch(resources=ResourcesPatch(cpu_millis=1)), DeploymentPatch(env={"A": "1"}),
    DeploymentPatch(command=("x",)), DeploymentPatch(args=("x",)), DeploymentPatch(network=Network.HOST),
    DeploymentPatch(labels={"a": "b"}),
    DeploymentPatch(pull_policy=PullPolicy.ALWAYS), DeploymentPatch(stop_grace_s=1.0), DeploymentPatch(node_selector={"a": "b"}),
    DeploymentPatch(runtime=Runtime.PROCESS, command=("x",)),
])
def test_every_field_of_the_template_makes_a_revision(stage: Stage, patch: DeploymentPatch) -> None:
    stage.deployment()
    stage.accepted(c.UpdateDeployment(name="web", patch=patch))
    web = stage.machine.tables.deployments["web"]
    assert (web.revision, web.updated_replicas, web.total_replicas) == (2, 0, 2)
    assert web.spec_version == web.version == stage.machine.tables.index


def test_env_in_another_order_is_the_same(stage: Stage) -> None:
    stage.accepted(c.CreateDeployment(spec=DeploymentSpec(name="web", image="nginx", env={"A": "1", "B": "2"})))
    reply = stage.accepted(c.UpdateDeployment(name="web", patch=DeploymentPatch(env={"B": "2", "A": "1"})))
    assert not reply.changed and not stage.changes


def test_counts_move_the_version_but_not_the_spec_version(stage: Stage) -> None:
    stage.deployment(replicas=2, pods=0)
    spec_version = stage.machine.tables.deployments["web"].spec_version
    stage.accepted(c.CreatePods(epoch=1, deployment_name="web", revision=1, total_replicas=0, count=2))
    web = stage.machine.tables.deployments["web"]
    assert (web.spec_version, web.version) == (spec_version, stage.machine.tables.index)


def test_deleting_stops_bound_pods_and_removes_the_others(stage: Stage) -> None:
    one, _ = stage.deployment(replicas=2)
    stage.assign("n1", one)
    assert stage.accepted(c.DeleteDeployment(name="web")).count == 2
    assert [pod.desired for pod in stage.pods()] == [Desired.STOPPED]
    # The name is free at once; the old pod is none of the new deployment's replicas.
    stage.accepted(c.CreateDeployment(spec=DeploymentSpec(name="web", image="nginx", replicas=1)))
    assert stage.machine.tables.deployments["web"].total_replicas == 0
    stage.report("n1", PodReport(pod_id=one.id, status=PodStatus.TERMINATED))
    assert stage.pods() == []


def test_no_more_pods_than_wanted_and_surge(stage: Stage) -> None:
    stage.deployment(replicas=2, pods=2)
    create = c.CreatePods(epoch=1, deployment_name="web", revision=1, total_replicas=2, count=2)
    assert stage.refused(create) is Refusal.CONFLICT
    stage.accepted(c.CreateDeployment(spec=DeploymentSpec(name="many", image="nginx", replicas=10_000)))
    too_many = c.CreatePods(epoch=1, deployment_name="many", revision=1, total_replicas=0, count=c.MAX_PODS_PER_COMMAND + 1)
    assert stage.refused(too_many) is Refusal.CONFLICT


@pytest.mark.parametrize("command", [
    c.StopPods(epoch=1, ids=("x",) * 501, reason="x"),
    c.RemovePods(epoch=1, ids=("x",) * 501),
    c.AssignPods(epoch=1, assignments=(c.Assignment(pod_id="x", node_name="n1"),) * 501),
    c.ExplainPods(epoch=1, pods=(c.Unplaced(pod_id="x", reason="x", message="x"),) * 501),
])
def test_commands_are_limited(stage: Stage, command: c.AnyCommand) -> None:
    assert stage.refused(command) is Refusal.CONFLICT


@pytest.mark.parametrize("command", [
    c.StopPods(epoch=0, ids=(), reason="x"), c.RemovePods(epoch=2, ids=()), c.AssignPods(epoch=0, assignments=()),
    c.ExplainPods(epoch=0, pods=()), c.MarkNodes(epoch=0, verdicts=()),
    c.CreatePods(epoch=0, deployment_name="web", revision=1, total_replicas=0, count=1),
])
def test_leaders_of_another_epoch_are_refused(stage: Stage, command: c.AnyCommand) -> None:
    assert stage.refused(command) is Refusal.STALE_EPOCH


def test_a_node_is_never_overfilled_within_one_command(stage: Stage) -> None:
    pods = stage.deployment(replicas=12)
    assert stage.assign("n1", *pods) == 8  # of 128 MiB each in 1 GiB
    node = stage.machine.tables.nodes["n1"]
    assert (node.pods, node.available) == (8, Resources(cpu_millis=200, memory_mb=0))


def test_a_pod_is_bound_once(stage: Stage) -> None:
    pod, _ = stage.deployment()
    both = tuple(c.Assignment(pod_id=pod.id, node_name=node) for node in ("n1", "n2", "n1"))
    assert stage.accepted(c.AssignPods(epoch=1, assignments=both)).count == 1
    assert stage.assign("n2", pod) == 0
    assert stage.pod(pod.id).node_name == "n1"
    assert stage.machine.tables.nodes["n2"].pods == 0


@pytest.mark.parametrize("status", [NodeStatus.NOTREADY, NodeStatus.UNKNOWN])
def test_nothing_is_bound_to_a_node_that_is_down(stage: Stage, status: NodeStatus) -> None:
    stage.mark("n1", status)
    assert stage.assign("n1", *stage.deployment()) == 0


def test_nodes_must_fit_runtime_and_selector(stage: Stage) -> None:
    stage.node("n3", labels={"disk": "ssd"})
    specs = [
        DeploymentSpec(name="picky", image="nginx", node_selector={"disk": "ssd"}),
        DeploymentSpec(name="process", runtime=Runtime.PROCESS, command=("true",)),
    ]
    for spec in specs:
        stage.accepted(c.CreateDeployment(spec=spec))
        stage.accepted(c.CreatePods(epoch=1, deployment_name=spec.name, revision=1, total_replicas=0, count=1))
    [picky], [process] = stage.pods("picky"), stage.pods("process")
    assert stage.assign("n1", picky, process) == 0
    assert stage.assign("n3", picky, process) == 1
    assert stage.pod(picky.id).node_name == "n3"


def test_a_stopped_or_unknown_pod_is_not_bound_or_explained(stage: Stage) -> None:
    one, _ = stage.deployment()
    stage.assign("n1", one)
    stage.accepted(c.StopPods(epoch=1, ids=(one.id, "nobody", one.id), reason="ScaledDown"))
    assert stage.assign("n2", one) == 0
    explained = stage.accepted(c.ExplainPods(epoch=1, pods=(c.Unplaced(pod_id=one.id, reason="Unschedulable", message="x"),)))
    assert not explained.changed


def test_what_one_too_many_was_counted_for_is_not_stopped_after_a_change() -> None:
    stage = Stage(epoch=0)
    stage.accepted(c.ClaimLeadership(server="s1:7080", term=1, cluster_id="story", schema=2))
    one, two = stage.deployment()
    stage.accepted(c.UpdateDeployment(name="web", patch=DeploymentPatch(replicas=1)))
    wanted = stage.machine.tables.deployments["web"].spec_version
    stop = c.StopPods(epoch=1, ids=(one.id,), reason="ScaledDown", deployment_name="web", spec_version=wanted, total_replicas=2)
    stage.accepted(c.DeletePod(id=two.id))
    assert stage.refused(stop) is Refusal.STALE_VERSION
    stop = replace(stop, total_replicas=1)
    assert stage.refused(replace(stop, ready_replicas=1)) is Refusal.STALE_VERSION
    assert stage.refused(replace(stop, deployment_name="other")) is Refusal.NOT_FOUND
    again = stage.accepted(c.UpdateDeployment(name="web", patch=DeploymentPatch(replicas=2)))
    assert stage.refused(stop) is Refusal.STALE_VERSION
    stage.accepted(replace(stop, spec_version=again.version))
    assert stage.pods() == []


def test_only_finished_pods_are_removed(stage: Stage) -> None:
    one, two = stage.deployment()
    stage.assign("n1", one, two)
    stage.report("n1", PodReport(pod_id=one.id, status=PodStatus.FAILED, reason="Error", exit_code=1))
    assert stage.pod(one.id).status is PodStatus.FAILED
    assert stage.accepted(c.RemovePods(epoch=1, ids=(one.id, two.id))).count == 1
    assert [pod.id for pod in stage.pods()] == [two.id]


def test_a_finished_pod_that_is_stopped_is_removed_at_once(stage: Stage) -> None:
    one, _ = stage.deployment()
    stage.assign("n1", one)
    stage.report("n1", PodReport(pod_id=one.id, status=PodStatus.SUCCEEDED, exit_code=0))
    stage.accepted(c.DeletePod(id=one.name))
    assert one.id not in stage.machine.tables.pods


@pytest.mark.parametrize("status", [PodStatus.SUCCEEDED, PodStatus.FAILED, PodStatus.TERMINATED])
def test_a_stopped_pod_goes_when_its_container_has_ended(stage: Stage, status: PodStatus) -> None:
    one, _ = stage.deployment()
    stage.assign("n1", one)
    stage.accepted(c.DeletePod(id=one.id))
    stage.report("n1", PodReport(pod_id=one.id, status=status))
    assert one.id not in stage.machine.tables.pods


def test_a_wanted_pod_whose_container_is_gone_for_certain_is_removed(stage: Stage) -> None:
    one, two = stage.deployment()
    stage.assign("n1", one, two)
    stage.running("n1", one, two)
    stage.report("n1", PodReport(pod_id=one.id, status=PodStatus.TERMINATED))
    web = stage.machine.tables.deployments["web"]
    assert (web.ready_replicas, web.total_replicas, stage.machine.tables.nodes["n1"].pods) == (1, 1, 1)


def test_an_agent_cannot_say_terminating_of_a_wanted_pod(stage: Stage) -> None:
    one, _ = stage.deployment()
    stage.assign("n1", one)
    stage.report("n1", PodReport(pod_id=one.id, status=PodStatus.TERMINATING))
    assert stage.pod(one.id).status is PodStatus.PENDING


def test_ready_needs_running_and_says_since_when(stage: Stage) -> None:
    one, _ = stage.deployment()
    stage.assign("n1", one)
    stage.report("n1", PodReport(pod_id=one.id, status=PodStatus.CREATING, ready=True))
    assert not stage.pod(one.id).ready
    stage.running("n1", one)
    since = stage.pod(one.id).ready_at
    stage.report("n1", PodReport(pod_id=one.id, status=PodStatus.RUNNING, ready=True, reason="Probed"))
    assert stage.pod(one.id).ready_at == since
    # It was restarted between two reports that both say ready.
    stage.report("n1", PodReport(pod_id=one.id, status=PodStatus.RUNNING, ready=True, restarts=1))
    assert stage.pod(one.id).ready_at == 1000.0 + stage.machine.tables.index


def test_facts_are_never_forgotten(stage: Stage) -> None:
    one, _ = stage.deployment()
    stage.assign("n1", one)
    full = PodReport(pod_id=one.id, status=PodStatus.RUNNING, restarts=3, exit_code=1, container_id="c", started_at=5.0)
    stage.report("n1", full)
    stage.report("n1", PodReport(pod_id=one.id, status=PodStatus.RUNNING, restarts=1, started_at=float("nan")))
    pod = stage.pod(one.id)
    assert (pod.restarts, pod.exit_code, pod.container_id, pod.started_at) == (3, 1, "c", 5.0)


def test_an_agents_words_are_cut(stage: Stage) -> None:
    one, _ = stage.deployment()
    stage.assign("n1", one)
    stage.report("n1", PodReport(pod_id=one.id, status=PodStatus.RUNNING, reason="r" * 9999, message="m" * 9999, container_id="c" * 9999))
    pod = stage.pod(one.id)
    assert (len(pod.reason), len(pod.message), len(pod.container_id)) == (MAX_WORD, MAX_MESSAGE, MAX_WORD)


def test_one_change_a_pod_however_often_it_is_reported(stage: Stage) -> None:
    one, _ = stage.deployment()
    stage.assign("n1", one)
    reports = [PodReport(pod_id=one.id, status=status) for status in (PodStatus.CREATING, PodStatus.RUNNING, PodStatus.CREATING)]
    stage.report("n1", *reports)
    assert len(stage.changes) == 1
    assert stage.pod(one.id).status is PodStatus.RUNNING


def test_stopping_keeps_its_reason_unless_it_is_in_trouble(stage: Stage) -> None:
    one, _ = stage.deployment()
    stage.assign("n1", one)
    stage.accepted(c.StopPods(epoch=1, ids=(one.id,), reason="ScaledDown"))
    stage.report("n1", PodReport(pod_id=one.id, status=PodStatus.RUNNING, reason="CrashLoopBackOff"))
    assert stage.pod(one.id).reason == "ScaledDown"
    stage.report("n1", PodReport(pod_id=one.id, status=PodStatus.TERMINATING, reason="StopError", message="engine does not answer"))
    assert (stage.pod(one.id).reason, stage.pod(one.id).status) == ("StopError", PodStatus.TERMINATING)


def test_shrunk_capacity_leaves_less_than_nothing_and_takes_no_more(stage: Stage) -> None:
    pods = stage.deployment(replicas=6)
    stage.assign("n1", *pods[:4])
    stage.node("n1", incarnation=2, cpu=300)
    assert stage.machine.tables.nodes["n1"].available == Resources(cpu_millis=-100, memory_mb=512)
    assert stage.assign("n1", pods[4]) == 0


def test_a_node_keeps_its_time_stamps_while_it_stays_ready(stage: Stage) -> None:
    before = stage.machine.tables.nodes["n1"]
    stage.node("n1", incarnation=2)
    after = stage.machine.tables.nodes["n1"]
    assert (after.created_at, after.status_since) == (before.created_at, before.status_since)


def test_registering_again_makes_a_lost_node_ready_and_revives_nothing(stage: Stage) -> None:
    one, _ = stage.deployment()
    stage.assign("n1", one)
    stage.mark("n1", NodeStatus.UNKNOWN)
    stage.node("n1")
    assert stage.machine.tables.nodes["n1"].status is NodeStatus.READY
    assert stage.pod(one.id).desired is Desired.STOPPED


def test_a_lost_node_counts_once(stage: Stage) -> None:
    one, two = stage.deployment()
    stage.assign("n1", one, two)
    assert stage.mark("n1", NodeStatus.UNKNOWN).count == 2
    again = stage.mark("n1", NodeStatus.UNKNOWN)
    assert (again.count, again.changed) == (0, False)


def test_a_copied_data_directory_with_a_lower_incarnation_takes_nothing_over(stage: Stage) -> None:
    stage.node("n1", incarnation=5)
    stage.mark("n1", NodeStatus.UNKNOWN, incarnation=5)
    command = c.RegisterNode(registration=registration("n9", id="id-n1", incarnation=4))
    assert stage.refused(command) is Refusal.STALE_INCARNATION
    assert "n1" in stage.machine.tables.nodes


def test_a_server_that_says_the_same_again_changes_nothing(stage: Stage) -> None:
    command = c.RegisterServer(id="s1:7080", api="http://s1:8080")
    assert stage.accepted(command).changed
    assert not stage.accepted(command).changed
    assert stage.accepted(c.RegisterServer(id="s1:7080", api="http://s1:9090")).changed


def test_a_patch_of_part_of_the_resources_leaves_the_other_part() -> None:
    stage = Stage()
    tables = stage.machine.tables
    stage.do(c.CreateDeployment(spec=DeploymentSpec(name="web", image="nginx", resources=Resources(cpu_millis=200, memory_mb=512))))
    stage.do(c.UpdateDeployment(name="web", patch=msgspec.json.decode(b'{"resources":{"cpu_millis":300}}', type=DeploymentPatch)))
    assert tables.deployments["web"].resources == Resources(cpu_millis=300, memory_mb=512)
    stage.do(c.UpdateDeployment(name="web", patch=msgspec.json.decode(b'{"rolling_update":{"max_unavailable":1}}', type=DeploymentPatch)))
    rolling = tables.deployments["web"].rolling_update
    assert (rolling.max_surge, rolling.max_unavailable) == (1, 1)
