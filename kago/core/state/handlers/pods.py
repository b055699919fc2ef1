"""The leader's decisions about pods, judged once more, and a user's wish to be rid of one."""

from hashlib import blake2b

from msgspec.structs import replace

from kago.core.model.deployment import TEMPLATE_FIELDS
from kago.core.model.node import Node, NodeStatus
from kago.core.model.pod import Pod, PodStatus
from kago.core.state.commands import MAX_PODS_PER_COMMAND, AssignPods, CreatePods, DeletePod, ExplainPods, RemovePods, StopPods
from kago.core.state.handlers.draft import FINISHED, Draft
from kago.core.state.rejections import Accepted, Refusal, Rejection, Reply

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_MIN_SUFFIX = 5
_STRIDE = 1_580_030_173
"""Coprime to 36, so that multiplying by it shuffles the suffixes of one length without two becoming the same."""


def create(draft: Draft, command: CreatePods) -> Reply:
    deployment = draft.deployment(command.deployment_name)
    if deployment is None:
        return Rejection(refusal=Refusal.NOT_FOUND, detail=f"there is no deployment {command.deployment_name}")
    if (command.revision, command.total_replicas) != (deployment.revision, deployment.total_replicas):
        return Rejection(
            refusal=Refusal.STALE_VERSION,
            detail=f"deployment {deployment.name} has {deployment.total_replicas} pods and revision {deployment.revision} by now",
        )
    limit = min(MAX_PODS_PER_COMMAND, deployment.replicas + deployment.rolling_update.max_surge - deployment.total_replicas)
    if not 1 <= command.count <= limit:
        return Rejection(
            refusal=Refusal.CONFLICT, detail=f"deployment {deployment.name} may get 1 to {limit} more pods now, not {command.count}"
        )
    template: dict[str, object] = {name: getattr(deployment, name) for name in TEMPLATE_FIELDS}
    alike = Pod(
        **template,  # type: ignore[arg-type]
        id="", name="", deployment_name=deployment.name, revision=deployment.revision, created_at=draft.at,
    )  # fmt: skip
    for ordinal in range(command.count):
        id = _uuid(f"{draft.tables.cluster.id}/{draft.index}/{ordinal}")
        name = f"{deployment.name}-{_suffix(draft.index * MAX_PODS_PER_COMMAND + ordinal)}"
        draft.put_pod(replace(alike, id=id, name=name))
    return Accepted(name=deployment.name, version=draft.index, count=command.count)


def stop(draft: Draft, command: StopPods) -> Reply:
    if len(command.ids) > MAX_PODS_PER_COMMAND:
        return _too_many(len(command.ids))
    if command.deployment_name and (stale := _stale_stop(draft, command)):
        return stale
    pods = [pod for id in command.ids if (pod := draft.pod(id)) is not None]
    stopped = sum(draft.stop_pod(pod, reason=command.reason, message=command.message) for pod in pods)
    return Accepted(version=draft.index, count=stopped)


def delete(draft: Draft, command: DeletePod) -> Reply:
    pod = draft.pod(draft.tables.pod_id(command.id) or "")
    if pod is None:
        return Rejection(refusal=Refusal.NOT_FOUND, detail=f"there is no pod {command.id}")
    stopped = draft.stop_pod(pod, reason="PodDeleted", message="a user deleted this pod")
    return Accepted(name=pod.name, version=draft.index if stopped else pod.version, count=int(stopped))


def remove(draft: Draft, command: RemovePods) -> Reply:
    if len(command.ids) > MAX_PODS_PER_COMMAND:
        return _too_many(len(command.ids))
    removed = 0
    for id in command.ids:
        if (pod := draft.pod(id)) is not None and pod.status in FINISHED:
            draft.remove_pod(id)
            removed += 1
    return Accepted(version=draft.index, count=removed)


def assign(draft: Draft, command: AssignPods) -> Reply:
    if len(command.assignments) > MAX_PODS_PER_COMMAND:
        return _too_many(len(command.assignments))
    free: dict[str, tuple[int, int]] = {}
    bound = 0
    for assignment in command.assignments:
        pod, node = draft.pod(assignment.pod_id), draft.node(assignment.node_name)
        if pod is None or node is None or not _unplaced(pod) or not _accepts(node, pod):
            continue
        cpu, memory = free.get(node.name) or (node.available.cpu_millis, node.available.memory_mb)
        cpu, memory = cpu - pod.resources.cpu_millis, memory - pod.resources.memory_mb
        if cpu < 0 or memory < 0:
            continue
        free[node.name] = cpu, memory
        draft.put_pod(replace(pod, node_name=node.name, reason="", message=""))
        bound += 1
    return Accepted(version=draft.index, count=bound)


def explain(draft: Draft, command: ExplainPods) -> Reply:
    if len(command.pods) > MAX_PODS_PER_COMMAND:
        return _too_many(len(command.pods))
    explained = 0
    for unplaced in command.pods:
        pod = draft.pod(unplaced.pod_id)
        if pod is not None and _unplaced(pod) and (pod.reason, pod.message) != (unplaced.reason, unplaced.message):
            draft.put_pod(replace(pod, reason=unplaced.reason, message=unplaced.message))
            explained += 1
    return Accepted(version=draft.index, count=explained)


def _stale_stop(draft: Draft, command: StopPods) -> Rejection | None:
    """A pod that one too many was counted for may be needed by now: its user scaled up again, or another one is gone."""
    deployment = draft.deployment(command.deployment_name)
    if deployment is None:
        return Rejection(refusal=Refusal.NOT_FOUND, detail=f"there is no deployment {command.deployment_name}")
    counted = (command.spec_version, command.total_replicas)
    if counted != (deployment.spec_version, deployment.total_replicas) or deployment.ready_replicas < command.ready_replicas:
        return Rejection(
            refusal=Refusal.STALE_VERSION,
            detail=f"deployment {deployment.name} has changed since: {deployment.total_replicas} pods, {deployment.ready_replicas} ready",
        )
    return None


def _unplaced(pod: Pod) -> bool:
    return pod.live and pod.node_name is None and pod.status is PodStatus.PENDING


def _accepts(node: Node, pod: Pod) -> bool:
    """Whether the node takes pods of this kind at all, room aside."""
    if node.status is not NodeStatus.READY or pod.runtime not in node.runtimes:
        return False
    return not pod.node_selector or all(node.labels.get(key) == value for key, value in pod.node_selector.items())


def _uuid(text: str) -> str:
    """A UUID of version 8 (RFC 9562: made by a scheme of one's own) from the hash of `text`."""
    digits = blake2b(text.encode(), digest_size=16).hexdigest()
    variant = "89ab"[int(digits[16], 16) % 4]
    return f"{digits[:8]}-{digits[8:12]}-8{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


def _suffix(number: int) -> str:
    """A pod name's last part for the `number`th pod a log could ever make: base 36, five digits, more when those are used up.

    Numbers of one length are shuffled among each other, so that neighbours look different and no two numbers get the same suffix.
    A suffix has no dash, hence names of different deployments cannot meet either.
    """
    length = _MIN_SUFFIX
    while number >= 36**length:
        length += 1
    number = number * _STRIDE % 36**length
    digits = ""
    for _ in range(length):
        number, digit = divmod(number, 36)
        digits = _DIGITS[digit] + digits
    return digits


def _too_many(count: int) -> Rejection:
    return Rejection(refusal=Refusal.CONFLICT, detail=f"{count} pods in one command, at most {MAX_PODS_PER_COMMAND} are taken")
