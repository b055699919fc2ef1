"""A pod: one container of a deployment, bound once, to one node."""

from enum import StrEnum

from msgspec import field

from kago.core.model.deployment import PodTemplate


class PodStatus(StrEnum):
    """Where a pod is in its life. It only ever moves down this list."""

    PENDING = "pending"
    """Not started: no node yet (`reason` says why) or its agent has not begun."""
    CREATING = "creating"
    """Its agent pulls, creates or retries a first start (`reason`: Pulling, ErrImagePull, ImagePullBackOff, CreateError…)."""
    RUNNING = "running"
    """Started at least once. Restarted in place by its agent: `ready`, `restarts` and `reason` (CrashLoopBackOff) tell."""
    TERMINATING = "terminating"
    """Told to stop; its container may still run."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TERMINATED = "terminated"
    """The container is gone for certain. The pod is removed by the same change."""


PHASE_ORDER: dict[PodStatus, int] = {status: n for n, status in enumerate(PodStatus)}


class Desired(StrEnum):
    RUNNING = "running"
    STOPPED = "stopped"


class Pod(PodTemplate, frozen=True, kw_only=True):
    """One pod. Template fields are a copy of the deployment's at its revision and never change."""

    id: str
    """A UUID minted from the cluster id and the log index that made the pod; never used twice."""
    name: str
    """`<deployment>-<suffix>`, unique for ever in the cluster."""
    deployment_name: str
    revision: int
    desired: Desired = Desired.RUNNING
    node_name: str | None = None
    """Set once by the leader."""
    status: PodStatus = PodStatus.PENDING
    reason: str = ""
    """One CamelCase word for programs: Unschedulable, ErrImagePull, CrashLoopBackOff, NodeLost, OOMKilled…"""
    message: str = ""
    """The same in words, for people."""
    ready: bool = False
    ready_at: float | None = None
    """When it last became ready."""
    restarts: int = 0
    exit_code: int | None = None
    """Of the last container that ended."""
    container_id: str = ""
    created_at: float = 0.0
    started_at: float | None = None
    """When the present container started, by its node's clock."""
    version: int = 0
    kind: str = field(default="Pod")

    @property
    def live(self) -> bool:
        """Whether it counts as one of its deployment's replicas."""
        return self.desired is Desired.RUNNING
