"""A deployment: what the user wants, and what has come of it."""

from enum import StrEnum
from typing import Any

from msgspec import UNSET, Struct, UnsetType, field
from msgspec.structs import replace

from kago.core.model.resources import Resources


class Runtime(StrEnum):
    """How a pod is run; a node says which of these it has."""

    DOCKER = "docker"
    PROCESS = "process"


class Network(StrEnum):
    BRIDGE = "bridge"
    HOST = "host"
    NONE = "none"


class PullPolicy(StrEnum):
    IF_NOT_PRESENT = "if-not-present"
    ALWAYS = "always"
    """Ask the registry again at each start, so a moved tag is noticed."""
    NEVER = "never"


class Strategy(StrEnum):
    """How the scheduler chooses among the nodes a pod fits on."""

    FIRST_FIT = "first-fit"
    BEST_FIT = "best-fit"
    LEAST_ALLOCATED = "least-allocated"
    BALANCED = "balanced"


STRATEGY_ALIASES = {"binpacking": Strategy.BEST_FIT, "spread": Strategy.LEAST_ALLOCATED, "balance": Strategy.BALANCED}


class RollingUpdate(Struct, gc=False, frozen=True, kw_only=True, forbid_unknown_fields=True):
    max_surge: int = 1
    """Pods above `replicas` during an update."""
    max_unavailable: int = 0
    """Pods below `replicas` that may be available during an update. Both zero is refused: nothing could ever move."""
    min_ready_s: float = 1.0
    """A new pod counts as available once it was ready this long, so that an image that starts and dies stops the update."""


class PodTemplate(Struct, gc=False, frozen=True, kw_only=True):
    """What a pod runs. Every change of it is a new revision."""

    image: str = ""
    """Image reference; may be empty only where `runtime` is process."""
    resources: Resources = Resources()
    runtime: Runtime = Runtime.DOCKER
    command: tuple[str, ...] = ()
    """Replaces the image's entrypoint; the program where `runtime` is process."""
    args: tuple[str, ...] = ()
    env: dict[str, str] = {}
    network: Network = Network.BRIDGE
    pull_policy: PullPolicy = PullPolicy.IF_NOT_PRESENT
    stop_grace_s: float = 10.0
    """Time between the stop signal (SIGTERM) and SIGKILL."""
    labels: dict[str, str] = {}
    node_selector: dict[str, str] = {}
    """Labels a node must carry, all of them."""


class DeploymentSpec(PodTemplate, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a user writes: a pod template, how many of it and how to change from one template to the next."""

    name: str
    replicas: int = 1
    rolling_update: RollingUpdate = RollingUpdate()
    scheduler: Strategy | None = None
    """Overrides the server's `--scheduler` for this deployment."""


class ResourcesPatch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The part of `resources` that a PUT names."""

    cpu_millis: int | UnsetType = UNSET
    memory_mb: int | UnsetType = UNSET


class RollingUpdatePatch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The part of `rolling_update` that a PUT names."""

    max_surge: int | UnsetType = UNSET
    max_unavailable: int | UnsetType = UNSET
    min_ready_s: float | UnsetType = UNSET


class DeploymentPatch(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The part of a spec that a PUT names; what is unset stays as it is."""

    image: str | UnsetType = UNSET
    resources: ResourcesPatch | UnsetType = UNSET
    runtime: Runtime | UnsetType = UNSET
    command: tuple[str, ...] | UnsetType = UNSET
    args: tuple[str, ...] | UnsetType = UNSET
    env: dict[str, str] | UnsetType = UNSET
    network: Network | UnsetType = UNSET
    pull_policy: PullPolicy | UnsetType = UNSET
    stop_grace_s: float | UnsetType = UNSET
    labels: dict[str, str] | UnsetType = UNSET
    node_selector: dict[str, str] | UnsetType = UNSET
    replicas: int | UnsetType = UNSET
    rolling_update: RollingUpdatePatch | UnsetType = UNSET
    scheduler: Strategy | UnsetType | None = UNSET

    def changes(self, to: DeploymentSpec) -> dict[str, Any]:
        """The fields of `to` that it sets, by name, whole."""
        changes = _named(self)
        for name, value in changes.items():
            if isinstance(value, ResourcesPatch | RollingUpdatePatch):
                changes[name] = replace(getattr(to, name), **_named(value))
        return changes


def _named(patch: Struct) -> dict[str, Any]:
    return {name: value for name in patch.__struct_fields__ if (value := getattr(patch, name)) is not UNSET}


class Deployment(DeploymentSpec, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """A deployment as the cluster holds it, the same on the wire, in the log and in memory."""

    revision: int = 1
    """Counts the pod templates this deployment has had."""
    ready_replicas: int = 0
    """Pods that run and are ready, of any revision. This and the next two are kept by the handlers, never by users."""
    updated_replicas: int = 0
    """Live pods of the newest revision."""
    total_replicas: int = 0
    """Live pods of any revision (not told to stop)."""
    message: str = ""
    """Why it is not as wanted, in words; empty when it is."""
    created_at: float = 0.0
    """Seconds since the epoch, by the clock of the server that took the request."""
    spec_version: int = 0
    """Index of the last change of what the user wants; what `If-Match` compares."""
    version: int = 0
    """Index of the last change of anything in it."""
    kind: str = field(default="Deployment")


READ_ONLY_FIELDS = (
    "revision",
    "ready_replicas",
    "updated_replicas",
    "total_replicas",
    "message",
    "created_at",
    "spec_version",
    "version",
    "kind",
)
"""Fields of a Deployment that a user may send back unchanged; they are dropped before a spec or patch is read."""

TEMPLATE_FIELDS: tuple[str, ...] = PodTemplate.__struct_fields__
SPEC_FIELDS: tuple[str, ...] = DeploymentSpec.__struct_fields__
