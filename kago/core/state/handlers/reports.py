"""What agents say of their pods: forward only, from the right agent only, whatever is late or doubled passed over."""

from math import isfinite

from msgspec.structs import replace

from kago.core.model.node import Node
from kago.core.model.pod import PHASE_ORDER, Pod, PodStatus
from kago.core.model.report import PodReport
from kago.core.state.commands import NodeReport, ReportPods
from kago.core.state.handlers.draft import FINISHED, Draft
from kago.core.state.handlers.nodes import stale_incarnation
from kago.core.state.rejections import Accepted, Refusal, Rejection, Reply

MAX_WORD = 128
"""Characters kept of a reason or container id."""
MAX_MESSAGE = 1024


def report(draft: Draft, command: ReportPods) -> Reply:
    """Take over what agents observed. Only where the command is one agent's alone does it hear that it is not taken seriously."""
    changed = 0
    for node_report in command.reports:
        sender = _sender(draft, node_report)
        if isinstance(sender, Node):
            changed += sum(_observe(draft, sender, observed) for observed in node_report.pods)
        elif len(command.reports) == 1:
            return sender
    return Accepted(version=draft.index, count=changed)


def _sender(draft: Draft, node_report: NodeReport) -> Node | Rejection:
    node = draft.node(node_report.node_name)
    if node is None:
        return Rejection(refusal=Refusal.NOT_FOUND, detail=f"there is no node {node_report.node_name}; register first")
    if node.id != node_report.node_id or node_report.incarnation < node.incarnation:
        return stale_incarnation(node, node_report.incarnation)
    if node_report.incarnation > node.incarnation:
        return Rejection(refusal=Refusal.NOT_FOUND, detail=f"node {node.name} is not registered in incarnation {node_report.incarnation}")
    return node


def _observe(draft: Draft, node: Node, observed: PodReport) -> bool:
    """Bring one pod forward; whether it was touched."""
    pod = draft.pod(observed.pod_id)
    if pod is None or pod.node_name != node.name:
        return False
    # A live pod whose container and whose agent's will to run it are gone for certain goes too, so that it is replaced.
    if observed.status is PodStatus.TERMINATED or (not pod.live and observed.status in FINISHED):
        draft.remove_pod(pod.id)
        return True
    moved = _advanced(pod, observed, draft.at) if pod.live else _winding_down(pod, observed)
    if moved == pod:
        return False
    draft.put_pod(moved)
    return True


def _advanced(pod: Pod, observed: PodReport, at: float) -> Pod:
    """A live pod after a report; terminating is not an agent's to say of it."""
    if observed.status is PodStatus.TERMINATING or PHASE_ORDER[observed.status] < PHASE_ORDER[pod.status]:
        return pod
    ready = observed.ready and observed.status is PodStatus.RUNNING
    # A restart between two reports that both say ready was a moment of not being ready, too.
    became_ready = ready and (not pod.ready or observed.restarts > pod.restarts)
    return replace(
        _facts(pod, observed),
        status=observed.status,
        reason=observed.reason[:MAX_WORD],
        message=observed.message[:MAX_MESSAGE],
        ready=ready,
        ready_at=at if became_ready else pod.ready_at,
    )


def _winding_down(pod: Pod, observed: PodReport) -> Pod:
    """A stopped pod after a report: it stays terminating for the reason it was stopped, unless stopping itself is in trouble."""
    pod = _facts(pod, observed)
    if observed.status is PodStatus.TERMINATING and observed.reason:
        pod = replace(pod, reason=observed.reason[:MAX_WORD], message=observed.message[:MAX_MESSAGE])
    return pod


def _facts(pod: Pod, observed: PodReport) -> Pod:
    """What holds whatever the pod's status is. An agent that forgot says nothing, rather than that there was nothing."""
    started_at = observed.started_at if observed.started_at is not None and isfinite(observed.started_at) else pod.started_at
    return replace(
        pod,
        restarts=max(pod.restarts, observed.restarts),
        exit_code=pod.exit_code if observed.exit_code is None else observed.exit_code,
        container_id=observed.container_id[:MAX_WORD] or pod.container_id,
        started_at=started_at,
    )
