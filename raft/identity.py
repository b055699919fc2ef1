"""Who this replica is, and whom it has met: the file that keeps an empty disk from posing as a full one.

An id is for the life of a data directory, the address under which it is reached is not; peers hear a new one in the hello.

A replica that lost its disk has forgotten what it voted for and what it acknowledged; under its old name it would let the
cluster commit without a majority. So each data directory draws an incarnation, every member remembers, durably, the incarnation of
every other, and a known name with another incarnation is turned away unless it says that it rejoins. One that rejoins is a learner,
neither voting nor counted, until it holds everything the cluster has committed.
"""

import contextlib
import zlib
from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta, Struct, structs

from raft.addresses import split_address
from raft.configuration import Configuration, first_configuration
from raft.contract import Disk, RaftConfig
from raft.errors import Corrupt, Expelled, StartRefused
from raft.messages import PROTOCOL_VERSION

_FILE = "identity"
_RETIRED_KEPT = 16
_MAX_KNOWN = 128
"""Ids whose incarnation is remembered; only members and those about to be have any business here."""
_LEVEL = "+level"
"""Stands among the incarnations in a hello, where the first release, which knows no levels (it is of level 1), passes over it."""
IDENTITY_USED = "identity: "
"""Reasons that begin so mean: stop, this data directory must not speak under this name."""
REMOVED = IDENTITY_USED + "removed: "
"""Reasons that begin so mean: stop, and never start again."""


class _Record(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What was not there in the first format has a default and is left out where it is that, so that the version before can read it."""

    format: int
    me: str
    """The id."""
    members: list[str]
    """Whom the data directory was made for."""
    max_replies: int
    incarnation: str
    rejoined: bool
    learner: bool
    has_journal: bool
    peers: dict[str, str]
    retired: dict[str, list[str]]
    address: str = ""
    """Own address where it is not the id."""
    addresses: dict[str, str] = {}
    """Of members that said in a hello that they moved, until the configuration says the same."""
    cluster: str = ""
    """The cluster's mark; without it the one that follows from `members`."""
    joined: Configuration | None = None
    """What this member was told when it joined; stands in until the log says more."""
    removed: bool = False


class _Hello(Struct, frozen=True, kw_only=True, array_like=True, forbid_unknown_fields=True):
    protocol: int
    me: str
    target: str
    cluster: str
    incarnation: str
    rejoined: bool
    peers: dict[str, str]
    """The incarnations the sender knows: whoever lost its disk forgot them, and must not be the gap another empty disk slips through."""
    address: Annotated[str, Meta(max_length=255)] = ""
    """Where the sender is reached, if that is not its id; left out otherwise, as the version before wants it."""


_hello_decoder = msgspec.msgpack.Decoder(_Hello)


class Identity:
    """The identity file and the handshake that rests on it."""

    def __init__(self, config: RaftConfig, disk: Disk, random: Random) -> None:
        self._config = config
        self._disk = disk
        self.is_new = False
        self.required_level = 1
        """Members of a lower one are turned away."""
        self.known: frozenset[str] = frozenset()
        """Ids of members, as far as the log says."""
        self.removed: frozenset[str] = frozenset()
        """Ids that must not speak any more."""
        self._record = self._open(random)

    @property
    def id(self) -> str:
        return self._record.me

    @property
    def address(self) -> str:
        """Where others reach this member."""
        return self._record.address or self._record.me

    @property
    def addresses(self) -> dict[str, str]:
        """Of members that moved since the last configuration."""
        return self._record.addresses

    @property
    def cluster(self) -> str:
        """The same on all members of a cluster, for ever."""
        return self._record.cluster or cluster_mark(self._record.members, self._record.max_replies)

    @property
    def first(self) -> Configuration:
        """The configuration before the log has one."""
        return self._record.joined or first_configuration(self._record.members)

    @property
    def learner(self) -> bool:
        return self._record.learner

    @property
    def incarnation(self) -> str:
        return self._record.incarnation

    @property
    def has_journal(self) -> bool:
        """Whether there ever was a journal beside this file: then there must be one still."""
        return self._record.has_journal

    def journal_made(self) -> None:
        """A journal stands on the disk from now on."""
        if not self._record.has_journal:
            self._write(structs.replace(self._record, has_journal=True))

    def graduate(self) -> None:
        """Caught up: a full member again."""
        self._write(structs.replace(self._record, learner=False))

    def move(self, address: str) -> None:
        """This member is reached at another address from now on."""
        if address != self.address:
            self._write(structs.replace(self._record, address="" if address == self.id else address))

    def moved(self, id: str, address: str | None) -> None:
        """Another member is reached at `address`; None: where the configuration says."""
        addresses = {other: where for other, where in self._record.addresses.items() if other != id}
        if address is not None and len(addresses) < _MAX_KNOWN:
            addresses[id] = address
        if addresses != self._record.addresses:
            self._write(structs.replace(self._record, addresses=addresses))

    def expelled(self) -> None:
        """The cluster removed this member; where that cannot be written, it is told again when it starts again."""
        with contextlib.suppress(OSError):
            self._write(structs.replace(self._record, removed=True))

    # -- the file --------------------------------------------------------------------------------------------------

    def _open(self, random: Random) -> _Record:
        config = self._config
        files = self._disk.list()
        if _FILE not in files:
            if any(not name.endswith(".tmp") for name in files):
                raise StartRefused(
                    f"the data directory has no {_FILE} file but holds {', '.join(files[:5])}: it is not a data directory of "
                    "this program, or a part of one; name an empty one"
                )
            self.is_new = True
            return self._write(self._first_record(random))
        record = self._read()
        if record.removed:
            raise Expelled(f"server {record.me} {_EXPELLED}")
        if record.max_replies != config.max_replies:
            raise StartRefused(f"max_replies was {record.max_replies} and is {config.max_replies}: it may not change, on any server")
        return record

    def _first_record(self, random: Random) -> _Record:
        config, invitation = self._config, self._config.invitation
        if invitation is None and config.me not in config.members:
            raise StartRefused(
                f"{config.me or 'this server'} is not among the peers {', '.join(config.members)}, and the data directory is empty; "
                "a server that is to be added to a running cluster starts with --join"
            )
        joined = None if invitation is None else Configuration(1, invitation.seats)
        me = config.me if invitation is None else invitation.id
        return _Record(
            format=1,
            me=me,
            members=sorted(config.members) if invitation is None else [seat.id for seat in invitation.seats],
            max_replies=config.max_replies,
            incarnation=random.randbytes(16).hex(),
            rejoined=config.rejoin,
            learner=config.rejoin and (invitation is not None or len(config.members) > 1),
            has_journal=False,
            peers={},
            retired={},
            address="" if me == config.me else config.me,
            cluster="" if invitation is None else invitation.cluster,
            joined=joined,
        )

    def _read(self) -> _Record:
        raw = self._disk.read(_FILE)
        body, _, check = raw.rpartition(b"\n")
        if check != b"%08x" % zlib.crc32(body):
            raise Corrupt(f"{_FILE}: checksum does not fit, offset 0; restore the file, or start with an empty data directory and --rejoin")
        try:
            record = msgspec.json.decode(body, type=_Record)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise Corrupt(f"{_FILE}: {error}") from error
        if record.format not in (1, 2):
            raise StartRefused(f"{_FILE} is of format {record.format}, written by a later version")
        return record

    def _write(self, record: _Record) -> _Record:
        new = record.address or record.addresses or record.cluster or record.joined or record.removed
        record = structs.replace(record, format=2 if new else 1)
        body = msgspec.json.encode(record)
        file = self._disk.open_append(_FILE + ".tmp", truncate_to=0)
        try:
            file.append(body + b"\n%08x" % zlib.crc32(body))
            file.sync()
        finally:
            file.close()
        self._disk.replace(_FILE + ".tmp", _FILE)
        self._record = record
        return record

    # -- the handshake ---------------------------------------------------------------------------------------------

    def hello(self, peer: str) -> bytes:
        record = self._record
        hello = _Hello(
            protocol=PROTOCOL_VERSION,
            me=record.me,
            target=peer,
            cluster=self.cluster,
            incarnation=record.incarnation,
            rejoined=record.rejoined,
            peers=record.peers if self._config.level == 1 else {**record.peers, _LEVEL: str(self._config.level)},
            address=record.address,
        )
        fields = list(msgspec.to_builtins(hello))
        return msgspec.msgpack.encode(fields if record.address else fields[:-1])

    def check(self, hello: bytes, certified: str | None = None) -> "Acquaintance":
        """Whom a hello is from; ValueError with the reason where it is not welcome. `certified`: whose certificate came with it.

        What is learnt of incarnations is on disk before this returns."""
        try:
            theirs = _hello_decoder.decode(hello)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(f"not a hello of this protocol: {error}") from error
        if certified not in (None, theirs.me):
            raise ValueError(f"it says that it is {theirs.me}, but its certificate is {certified}'s")
        me = self._record.me
        if theirs.protocol != PROTOCOL_VERSION:
            raise ValueError(f"server {me} speaks protocol {PROTOCOL_VERSION}, not {theirs.protocol}")
        if theirs.cluster != self.cluster:
            raise ValueError(f"server {me} belongs to another cluster: its peers are {', '.join(sorted(self.known))}")
        if theirs.target != me:
            raise ValueError(f"this is server {me}, not {theirs.target}")
        if theirs.me == me:
            raise ValueError(f"this is server {me} itself")
        if theirs.me in self.removed:
            raise ValueError(f"{REMOVED}server {theirs.me} {_EXPELLED}")
        level = theirs.peers.get(_LEVEL, "1")
        if not level.isascii() or not level.isdigit() or int(level) < self.required_level:
            raise ValueError(
                f"{IDENTITY_USED}server {theirs.me} runs a version that does not understand what the others use by now; start it with the "
                "version that they run. Its data is well, nothing needs to be restored"
            )
        _check_address(theirs.address or theirs.me)
        back_empty = self._take_incarnation(theirs)
        return Acquaintance(theirs.me, theirs.address or theirs.me, back_empty)

    def _take_incarnation(self, theirs: _Hello) -> bool:
        """Remember who speaks; whether it came back with a new data directory. ValueError."""
        peers, me = self._record.peers, self._record.me
        learnt = {m: i for m, i in theirs.peers.items() if m in self.known and m not in peers and m not in (me, theirs.me)}
        known = peers.get(theirs.me)
        if known == theirs.incarnation:
            if learnt:
                self._write(structs.replace(self._record, peers={**peers, **learnt}))
            return False
        retired = self._record.retired.get(theirs.me, [])
        if known is not None and (not theirs.rejoined or theirs.incarnation in retired):
            raise ValueError(
                f"{IDENTITY_USED}server {theirs.me} was here before with another data directory ({known[:8]}, this one is "
                f"{theirs.incarnation[:8]}); if its data is lost for good start it with --rejoin and an empty data directory"
            )
        if known is None and len(peers) >= _MAX_KNOWN:
            peers = {m: i for m, i in peers.items() if m in self.known}
        if known is not None:
            retired = [*retired, known][-_RETIRED_KEPT:]
        self._write(
            structs.replace(
                self._record,
                peers={**peers, **learnt, theirs.me: theirs.incarnation},
                retired={**self._record.retired, theirs.me: retired},
            )
        )
        return known is not None


def _check_address(address: str) -> None:
    """What is not one must not come into a configuration. ValueError."""
    try:
        split_address(address)
    except StartRefused as error:
        raise ValueError(str(error)) from error


class Acquaintance(NamedTuple):
    """Whom a hello is from."""

    id: str
    address: str
    back_empty: bool
    """It came back with a new data directory."""


_EXPELLED = (
    "was removed from the cluster, and a removed server never comes back under its old id. To use this machine again empty the data "
    "directory, start it with --join, and add it with `kago cluster add`"
)


def id_in(data_dir: Path) -> str | None:
    """The id of the member whose data directory this is, without opening it; None where it is nobody's."""
    try:
        body = (data_dir / _FILE).read_bytes().rpartition(b"\n")[0]
        return msgspec.json.decode(body, type=_Record).me
    except FileNotFoundError:
        return None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""  # Damaged: opening it says so.


def cluster_mark(members: Iterable[str], max_replies: int) -> str:
    """The mark of the cluster that begins with these members."""
    text = "\n".join([*sorted(members), str(max_replies)])
    return f"{zlib.crc32(text.encode()):08x}{zlib.adler32(text.encode()):08x}"
