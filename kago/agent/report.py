"""What an agent says about each pod, and how much of it the control plane has not heard yet; pure."""

from collections.abc import Mapping

from msgspec import Struct

from kago.agent.plan import Record, Sight, containers_by_pod
from kago.agent.runtime import Observed
from kago.core.model.pod import Desired, Pod, PodStatus
from kago.core.model.report import PodReport

MAX_REPORTS = 200
"""Pods reported in one heartbeat; the rest rides in the next, at once."""


class Work(Struct, frozen=True, kw_only=True):
    """An action under way on a pod."""

    reason: str = ""
    message: str = ""
    young: bool = False
    """It may be over in a moment: of a pod that nothing was said of yet, what comes of it is the first word."""


def reports(sight: Sight, work: Mapping[str, Work], before: Mapping[str, PodReport]) -> dict[str, PodReport]:
    """One for every pod bound here but those just begun with. A pod whose runtime gives no answer keeps its report from `before`."""
    by_pod = containers_by_pod(sight.observed)
    said: dict[str, PodReport] = {}
    for pod_id, pod in sorted(sight.pods.items()):
        containers, doing = by_pod.get(pod_id, []), work.get(pod_id)
        if pod.runtime in sight.blind:
            said[pod_id] = before.get(pod_id) or _unanswered(pod, sight.records.get(pod_id, Record()))
        elif pod_id in before or doing is None or not doing.young:
            observed = containers[0] if containers else None
            said[pod_id] = _report(pod, observed, sight.records.get(pod_id, Record()), doing, pod.runtime in sight.offered)
    return said


def unheard(said: Mapping[str, PodReport], acknowledged: Mapping[str, PodReport]) -> tuple[PodReport, ...]:
    """Those that differ from what was last acknowledged, as many as fit one heartbeat."""
    return tuple(report for pod_id, report in sorted(said.items()) if acknowledged.get(pod_id) != report)[:MAX_REPORTS]


def _report(pod: Pod, observed: Observed | None, record: Record, work: Work | None, offered: bool) -> PodReport:
    running = observed is not None and observed.running
    reason, message = record.reason, record.message
    if work is not None and work.reason:
        reason, message = work.reason, work.message
    if pod.desired is Desired.STOPPED:
        gone = observed is None and work is None
        status = PodStatus.TERMINATED if gone else PodStatus.TERMINATING
        # why it was told to stop is the control plane's to say; only trouble in stopping is ours
        reason, message = ("", "") if gone or work is None else (work.reason, work.message)
    elif not offered:
        status = PodStatus.CREATING
        reason, message = "RuntimeMissing", f"this node does not have the runtime {pod.runtime}"
    elif running or record.run:
        status = PodStatus.RUNNING
        if observed is not None and running:
            reason, message = ("", "") if observed.healthy else ("Unhealthy", observed.detail)
        elif observed is None and not reason:
            reason, message = "ContainerGone", "its container was removed by someone else; it is made anew"
    else:
        status = PodStatus.CREATING
    return PodReport(
        pod_id=pod.id,
        status=status,
        reason=reason,
        message=message,
        ready=pod.desired is Desired.RUNNING and observed is not None and observed.running and observed.healthy,
        restarts=record.restarts,
        exit_code=record.exit_code,
        container_id=observed.ref if observed is not None else "",
        started_at=observed.started_at if observed is not None else None,
    )


def _unanswered(pod: Pod, record: Record) -> PodReport:
    """For a pod of which nothing was said yet: no word on whether it runs."""
    if pod.desired is Desired.STOPPED:
        status = PodStatus.TERMINATING
    else:
        status = PodStatus.RUNNING if record.run else PodStatus.CREATING
    return PodReport(
        pod_id=pod.id,
        status=status,
        reason="EngineUnavailable",
        message=f"the {pod.runtime} engine of this node gives no answer",
        restarts=record.restarts,
        exit_code=record.exit_code,
    )
