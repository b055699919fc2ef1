"""The cluster itself: its id, who leads it, which servers it has."""

from msgspec import Struct, field


class Cluster(Struct, frozen=True, kw_only=True):
    """The one record every replica has from the first entry on."""

    id: str = ""
    """Random, chosen by the first leader; labels every container."""
    epoch: int = 0
    """Grows with each claimed leadership; a leader's command of an earlier epoch is refused, also by agents."""
    leader: str = ""
    """Raft address of the server that claimed this epoch."""
    version: int = 0


class Server(Struct, frozen=True, kw_only=True):
    """A control-plane server as it announced itself."""

    id: str
    """Its Raft address."""
    api: str
    """URL of its REST API for clients and agents."""
    software_version: str = ""
    version: int = 0
    kind: str = field(default="Server")
