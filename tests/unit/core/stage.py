"""A state machine on its own and short ways to say what happens to it; after every command the invariants are checked."""

from kago.core.model.deployment import DeploymentSpec, Runtime
from kago.core.model.node import NodeStatus
from kago.core.model.pod import Pod, PodStatus
from kago.core.model.report import PodReport, Registration
from kago.core.model.resources import Resources
from kago.core.state.changes import Change
from kago.core.state.commands import (
    AnyCommand,
    Assignment,
    AssignPods,
    ClaimLeadership,
    CreateDeployment,
    CreatePods,
    MarkNodes,
    NodeReport,
    NodeVerdict,
    RegisterNode,
    ReportPods,
)
from kago.core.state.invariants import check
from kago.core.state.machine import Machine, decode_reply, encode_entry
from kago.core.state.rejections import Accepted, Refusal, Rejection, Reply

START = 1000.0
"""Entry n is proposed at this many seconds and n more."""


class Stage:
    def __init__(self, *, epoch: int = 1) -> None:
        self.machine = Machine()
        self.changes: tuple[Change, ...] = ()
        self.machine.on_changes = self._remember
        if epoch:
            self.do(ClaimLeadership(server="s1:7080", term=epoch, cluster_id="story"))

    def _remember(self, index: int, changes: tuple[Change, ...]) -> None:
        assert index == self.machine.tables.index
        self.changes = changes

    def do(self, command: AnyCommand) -> Reply:
        index = self.machine.tables.index + 1
        reply = decode_reply(self.machine.apply(index, encode_entry(command, START + index)))
        assert self.machine.tables.index == index
        assert check(self.machine.tables) == []
        assert not (isinstance(reply, Rejection) and self.changes)
        return reply

    def accepted(self, command: AnyCommand) -> Accepted:
        reply = self.do(command)
        assert isinstance(reply, Accepted), reply
        return reply

    def refused(self, command: AnyCommand) -> Refusal:
        reply = self.do(command)
        assert isinstance(reply, Rejection), reply
        assert reply.detail
        return reply.refusal

    def pods(self, deployment: str = "web") -> list[Pod]:
        return self.machine.tables.pods_of_deployment(deployment)

    def pod(self, id: str) -> Pod:
        return self.machine.tables.pods[id]

    def node(self, name: str, *, id: str = "", incarnation: int = 1, cpu: int = 1000, memory: int = 1024, **more: dict[str, str]) -> None:
        self.accepted(RegisterNode(registration=registration(name, id=id, incarnation=incarnation, cpu=cpu, memory=memory, **more)))

    def deployment(self, name: str = "web", *, replicas: int = 2, pods: int | None = None) -> list[Pod]:
        """A deployment with so many unplaced pods (as many as replicas)."""
        self.accepted(CreateDeployment(spec=DeploymentSpec(name=name, image="nginx:alpine", replicas=replicas)))
        count = replicas if pods is None else pods
        if count:
            self.accepted(CreatePods(epoch=1, deployment_name=name, revision=1, total_replicas=0, count=count))
        return self.pods(name)

    def assign(self, node: str, *pods: Pod) -> int:
        assignments = tuple(Assignment(pod_id=pod.id, node_name=node) for pod in pods)
        return self.accepted(AssignPods(epoch=1, assignments=assignments)).count

    def report(self, node: str, *reports: PodReport, incarnation: int = 1) -> Reply:
        return self.do(ReportPods(reports=(NodeReport(node_name=node, node_id=f"id-{node}", incarnation=incarnation, pods=reports),)))

    def running(self, node: str, *pods: Pod) -> None:
        """Say that they run and are ready."""
        self.report(node, *(PodReport(pod_id=pod.id, status=PodStatus.RUNNING, ready=True) for pod in pods))

    def mark(self, node: str, status: NodeStatus, *, incarnation: int = 1) -> Accepted:
        verdict = NodeVerdict(name=node, id=f"id-{node}", incarnation=incarnation, status=status)
        return self.accepted(MarkNodes(epoch=1, verdicts=(verdict,)))


def registration(
    name: str, *, id: str = "", incarnation: int = 1, cpu: int = 1000, memory: int = 1024, labels: dict[str, str] | None = None
) -> Registration:
    return Registration(
        name=name, id=id or f"id-{name}", incarnation=incarnation, address="host", port=8081,
        capacity=Resources(cpu_millis=cpu, memory_mb=memory), labels=labels or {}, runtimes=(Runtime.DOCKER,),
    )
