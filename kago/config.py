"""Settings of the two processes, with their defaults: what flags, environment and files end up as."""

from pathlib import Path

from msgspec import Struct

from kago.core.model.deployment import Runtime, Strategy
from kago.core.model.resources import Resources

API_PORT = 8080
RAFT_PORT = 7080
AGENT_PORT = 8081
DEFAULT_SERVER = f"http://localhost:{API_PORT}"
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class ServeConfig(Struct, frozen=True, kw_only=True):
    """`kago serve`."""

    host: str = "127.0.0.1"
    """Address the REST API binds."""
    port: int = API_PORT
    me: str = f"127.0.0.1:{RAFT_PORT}"
    """Own Raft address, host:port."""
    members: tuple[str, ...] = (f"127.0.0.1:{RAFT_PORT}",)
    """Raft addresses a new cluster begins with, own included; a used data directory knows better."""
    guessed: bool = False
    """Neither `me` nor `members` was said: what a used data directory remembers holds."""
    join: tuple[str, ...] = ()
    """URLs of servers of a running cluster, for a new one of it."""
    api_url: str = DEFAULT_SERVER
    """URL under which agents and clients reach this server's API; announced to the cluster."""
    data_dir: Path
    scheduler: Strategy = Strategy.FIRST_FIT
    rejoin: bool = False
    insecure: bool = False
    """Allow Raft on an address that is not loopback before TLS exists."""
    node_lease_s: float = 5.0
    """A node is down this long after its last heartbeat (stretched in large clusters)."""
    heartbeat_s: float = 1.0
    node_gc_s: float = 24 * 3600.0
    """Nodes down this long are forgotten."""


class AgentConfig(Struct, frozen=True, kw_only=True):
    """`kago agent`."""

    name: str
    masters: tuple[str, ...] = (DEFAULT_SERVER,)
    port: int = AGENT_PORT
    host: str = "127.0.0.1"
    """Address the agent's own port binds."""
    address: str
    """Host under which others reach this node."""
    capacity: Resources = Resources(cpu_millis=4000, memory_mb=8192)
    runtime: Runtime | None = None
    """None: both where an engine answers, else process alone."""
    labels: dict[str, str] = {}
    data_dir: Path
