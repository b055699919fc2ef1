"""GET /cluster, as a client reads it."""

from msgspec import Struct


class MemberStatus(Struct, frozen=True, kw_only=True):
    id: str
    address: str
    """Raft host:port."""
    voter: bool = True
    api: str = ""
    """URL of its REST API."""
    role: str
    """leader, follower, learner or down."""
    index: int = 0
    lag: int | None = 0
    """Entries behind the leader; None where nobody knows."""


class ClusterStatus(Struct, frozen=True, kw_only=True):
    leader: str | None
    term: int
    index: int
    members: tuple[MemberStatus, ...]
    log_id: str = ""
    """What a server that joins must know of the log."""
    schema: int = 1
    """What every server is known to understand."""
