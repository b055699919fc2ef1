"""A node: a machine with an agent, and whether the leader still hears it."""

from enum import StrEnum

from msgspec import Struct, field

from kago.core.model.deployment import Runtime
from kago.core.model.resources import NOTHING, Resources


class NodeStatus(StrEnum):
    READY = "ready"
    NOTREADY = "notready"
    """Its agent said good-bye or is known to be unable to run pods."""
    UNKNOWN = "unknown"
    """Not heard for longer than its lease: its pods are replaced elsewhere."""


class Node(Struct, gc=False, frozen=True, kw_only=True):
    name: str
    id: str
    """Of the agent's data directory: the same id is the same node, whatever its address."""
    address: str
    port: int
    status: NodeStatus = NodeStatus.READY
    reason: str = ""
    capacity: Resources
    allocatable: Resources
    used: Resources = NOTHING
    """Promised to pods bound here whose container is not certainly gone."""
    available: Resources
    """allocatable - used."""
    pods: int = 0
    """Pods bound here."""
    labels: dict[str, str] = {}
    runtimes: tuple[Runtime, ...] = ()
    agent_version: str = ""
    incarnation: int = 0
    """Counts the agent's starts; a report of an earlier one is refused."""
    created_at: float = 0.0
    status_since: float = 0.0
    version: int = 0
    kind: str = field(default="Node")
