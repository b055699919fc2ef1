"""What people see."""

import pytest

from kago.cli.tables import DEPLOYMENTS, NODES, PODS, cluster_table, duration, members_table, pod_word
from kago.client.status import ClusterStatus, MemberStatus
from kago.core.model.deployment import Deployment
from kago.core.model.node import Node
from kago.core.model.pod import Pod, PodStatus
from kago.core.model.resources import Resources

NOW = 1_000_000.0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0s"), (0.4, "0s"), (12, "12s"), (185, "3m5s"), (3600, "1h"), (14_465, "4h1m"), (352_800, "4d2h"), (345_605, "4d")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def pod(**fields: object) -> Pod:
    values: dict[str, object] = {"id": "u", "name": "web-1", "deployment_name": "web", "revision": 7, "created_at": NOW - 60, **fields}
    return Pod(**values)  # type: ignore[arg-type]


def test_deployments() -> None:
    web = Deployment(name="web", image="nginx:1.27", replicas=3, ready_replicas=2, updated_replicas=3, created_at=NOW - 352_800)
    assert DEPLOYMENTS.render([web], NOW).splitlines() == [
        "NAME   READY   UP-TO-DATE   AVAILABLE   AGE",
        "web    2/3     3            2           4d2h",
    ]
    assert DEPLOYMENTS.render([web], NOW, wide=True).splitlines()[1].split() == "web 2/3 3 2 4d2h 1 docker nginx:1.27".split()


def test_pods() -> None:
    running = pod(status=PodStatus.RUNNING, ready=True, node_name="n1", image="nginx")
    looping = pod(name="web-long-name", status=PodStatus.RUNNING, reason="CrashLoopBackOff", restarts=5)
    assert PODS.render([running, looping], NOW, wide=True).splitlines() == [
        "NAME            READY   STATUS             RESTARTS   AGE   NODE     REV   IMAGE",
        "web-1           1/1     Running            0          1m    n1       7     nginx",
        "web-long-name   0/1     CrashLoopBackOff   5          1m    <none>   7     <none>",
    ]


@pytest.mark.parametrize(
    ("status", "reason", "word"),
    [
        (PodStatus.PENDING, "Unschedulable", "Pending"),
        (PodStatus.CREATING, "", "ContainerCreating"),
        (PodStatus.CREATING, "ImagePullBackOff", "ImagePullBackOff"),
        (PodStatus.FAILED, "OOMKilled", "OOMKilled"),
        (PodStatus.FAILED, "", "Error"),
        (PodStatus.SUCCEEDED, "", "Completed"),
        (PodStatus.TERMINATING, "NodeLost", "Terminating"),
    ],
)
def test_pod_words(status: PodStatus, reason: str, word: str) -> None:
    assert pod_word(pod(status=status, reason=reason)) == word


def test_nodes_fit_80_columns() -> None:
    node = Node(
        name="worker-1",
        id="i",
        address="10.0.0.1",
        port=8081,
        capacity=Resources(cpu_millis=4000, memory_mb=8192),
        allocatable=Resources(cpu_millis=4000, memory_mb=8192),
        used=Resources(cpu_millis=2100, memory_mb=3277),
        available=Resources(cpu_millis=1900, memory_mb=4915),
        pods=12,
        created_at=NOW - 40 * 86_400,
    )
    lines = NODES.render([node], NOW).splitlines()
    assert lines[1].split() == ["worker-1", "Ready", "2.1/4", "3.2/8Gi", "12", "40d"]
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    ("roles", "verdict"),
    [
        (("leader", "follower", "follower"), "quorum 3/3 live; tolerates 1 more failure"),
        (("leader", "follower", "down"), "quorum 2/3 live; tolerates 0 more failures"),
        (("follower", "down", "down"), "no quorum: 1 of 3 live, 2 needed; nothing can be written until 1 more are back"),
    ],
)
def test_cluster_verdicts(roles: tuple[str, ...], verdict: str) -> None:
    members = tuple(MemberStatus(id=f"a:{n}", address=f"a:{n}", role=role) for n, role in enumerate(roles))
    assert verdict in cluster_table(ClusterStatus(leader="a:0", term=3, index=9, members=members))


def test_members() -> None:
    members = (
        MemberStatus(id="a:7080", address="a:7080", role="leader"),
        MemberStatus(id="b:7080", address="elsewhere:7080", role="down", lag=None),
        MemberStatus(id="b:7080#2", address="b:7080", role="learner", voter=False, lag=12),
    )
    cluster = ClusterStatus(leader="a:7080", term=3, index=9, members=members)
    assert members_table(cluster).splitlines() == [
        "ID         ADDRESS          ROLE      VOTES   LAG",
        "a:7080     a:7080           leader    yes     0",
        "b:7080     elsewhere:7080   down      yes     <none>",
        "b:7080#2   b:7080           learner   no      12",
    ]
    assert "no quorum: 1 of 2 live" in cluster_table(cluster), "a learner is not counted"
