"""What agents tell the control plane."""

from typing import Any

from msgspec import Struct

from kago.core.model.deployment import Runtime
from kago.core.model.pod import PodStatus
from kago.core.model.resources import Resources


class PodReport(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The agent's half of a pod: only fields an agent owns."""

    pod_id: str
    status: PodStatus
    reason: str = ""
    message: str = ""
    ready: bool = False
    restarts: int = 0
    exit_code: int | None = None
    container_id: str = ""
    started_at: float | None = None


class Heartbeat(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """POST /nodes/{name}/heartbeat: renews the lease and carries what moved since the last acknowledged one."""

    node_id: str
    incarnation: int
    pods: tuple[PodReport, ...] = ()
    leaving: bool = False
    """The agent stops on purpose; its containers go on, the node is notready at once but not evicted before its lease ends."""


class HeartbeatReply(Struct, frozen=True, kw_only=True):
    index: int
    epoch: int
    heartbeat_s: float
    """How long to wait until the next one."""
    lease_s: float
    servers: tuple[str, ...]
    """API URLs of all servers; agents save them and never empty the list."""
    removed_servers: dict[str, int] = {}
    """By id, the log index at which each was removed: certificates given to it earlier count no more, also at an agent's port."""


class Registration(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """POST /nodes/register."""

    name: str
    id: str
    incarnation: int
    address: str
    port: int
    capacity: Resources
    labels: dict[str, str] = {}
    runtimes: tuple[Runtime, ...] = ()
    agent_version: str = ""


class RegistrationReply(Struct, frozen=True, kw_only=True):
    cluster_id: str
    index: int
    epoch: int
    heartbeat_s: float
    lease_s: float
    servers: tuple[str, ...]
    removed_servers: dict[str, int] = {}


class WatchEvent(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One NDJSON line of a watch.

    `put` (object as in a GET) and `removed` (the object as it last was) carry `index`, the log index of the change;
    `synced` ends the listing a watch without `index` begins with; `heartbeat` comes at least every 10 s; `error` ends
    the stream with a problem (as in an error answer) in `object`.
    """

    type: str
    index: int
    epoch: int = 0
    """On synced and heartbeat lines."""
    object: dict[str, Any] | None = None

    @property
    def complete(self) -> int:
        """The last log index of which nothing more comes: one entry may change many things, and a stream may break among them."""
        return self.index - 1 if self.type in ("put", "removed") else self.index
