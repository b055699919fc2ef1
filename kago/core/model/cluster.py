"""The cluster itself: its id, who leads it, which servers it has."""

from msgspec import UNSET, Struct, UnsetType, field

from kago.core.model.quantity import parse_whole

_SCHEMA = "+schema."


class Cluster(Struct, frozen=True, kw_only=True):
    """The one record every replica has from the first entry on."""

    id: str = ""
    """Random, chosen by the first leader; labels every container."""
    epoch: int = 0
    """Grows with each claimed leadership; a leader's command of an earlier epoch is refused, also by agents."""
    leader: str = ""
    """Id of the server that claimed this epoch."""
    version: int = 0
    tokens_of: str | UnsetType = UNSET
    """Id of the CA with which this cluster was secured: the tokens made beside it stand in the log."""
    schema: int | UnsetType = UNSET
    """What every server understands; UNSET is 1, which servers of the first release do not write."""

    @property
    def schema_version(self) -> int:
        return 1 if self.schema is UNSET else self.schema


class Server(Struct, frozen=True, kw_only=True):
    """A control-plane server as it announced itself."""

    id: str
    """For the life of its data directory: the Raft address it was first known by."""
    api: str
    """URL of its REST API for clients and agents."""
    software_version: str = ""
    """And the highest schema it understands, as in 0.2.0+schema.2: servers of the first release keep the text and do not mind."""
    version: int = 0
    kind: str = field(default="Server")

    @property
    def schema(self) -> int:
        """The highest schema it announced."""
        number = parse_whole(self.software_version.partition(_SCHEMA)[2])
        return 1 if number is None else number

    @property
    def release(self) -> str:
        """Its software's version alone."""
        return self.software_version.partition(_SCHEMA)[0]


class MemberRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """POST /cluster/members."""

    address: str
    """Raft host:port of the new server."""


class MemberReply(Struct, frozen=True, kw_only=True):
    id: str
    address: str = ""


class LeaderRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """POST /cluster/leader."""

    id: str = ""
    """Who is to lead; left out: whoever is best placed."""


class LeaderReply(Struct, frozen=True, kw_only=True):
    leader: str


def announced(release: str, schema: int) -> str:
    """`software_version` of a server of this release that understands `schema`."""
    return f"{release}{_SCHEMA}{schema}"


def advice(voters: int) -> str:
    """What is to be said of a cluster of this many servers that vote; nothing where the number is a good one."""
    if voters == 2:
        return "two servers must both be up, so they are less reliable than one: add a third"
    if voters > 1 and voters % 2 == 0:
        return f"{voters} servers survive the loss of {voters // 2 - 1}, no more than {voters - 1} do: an odd number is better"
    return ""
