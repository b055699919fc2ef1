"""Who this replica is, and whom it has met: the file that keeps an empty disk from posing as a full one.

A replica that lost its disk has forgotten what it voted for and what it acknowledged; under its old name it would let the
cluster commit without a majority. So each data directory draws an incarnation, every member remembers, durably, the incarnation of
every other, and a known name with another incarnation is turned away unless it says that it rejoins. One that rejoins is a learner,
neither voting nor counted, until it holds everything the cluster has committed.
"""

import zlib
from random import Random

import msgspec
from msgspec import Struct, structs

from raft.contract import Disk, RaftConfig
from raft.errors import Corrupt, StartRefused
from raft.messages import PROTOCOL_VERSION

_FILE = "identity"
_RETIRED_KEPT = 16
IDENTITY_USED = "identity: "
"""Reasons that begin so mean: stop, this data directory must not speak under this name."""


class _Record(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    format: int
    me: str
    members: list[str]
    max_replies: int
    incarnation: str
    rejoined: bool
    learner: bool
    has_journal: bool
    peers: dict[str, str]
    retired: dict[str, list[str]]


class _Hello(Struct, frozen=True, kw_only=True, array_like=True, forbid_unknown_fields=True):
    protocol: int
    me: str
    target: str
    cluster: str
    incarnation: str
    rejoined: bool
    peers: dict[str, str]
    """The incarnations the sender knows: whoever lost its disk forgot them, and must not be the gap another empty disk slips through."""


_hello_decoder = msgspec.msgpack.Decoder(_Hello)


class Identity:
    """The identity file and the handshake that rests on it."""

    def __init__(self, config: RaftConfig, disk: Disk, random: Random) -> None:
        self._config = config
        self._disk = disk
        self._cluster = _cluster_hash(config)
        self.is_new = False
        self._record = self._open(random)

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
            record = _Record(
                format=1,
                me=config.me,
                members=sorted(config.members),
                max_replies=config.max_replies,
                incarnation=random.randbytes(16).hex(),
                rejoined=config.rejoin,
                learner=config.rejoin and len(config.members) > 1,
                has_journal=False,
                peers={},
                retired={},
            )
            return self._write(record)
        record = self._read()
        if record.me != config.me:
            raise StartRefused(
                f"the data directory belongs to server {record.me}, not {config.me}: start it under its own address or name "
                "an empty data directory"
            )
        if sorted(record.members) != sorted(config.members):
            raise StartRefused(
                f"the data directory belongs to the servers {', '.join(sorted(record.members))}, but the peers given are "
                f"{', '.join(sorted(config.members))}: start it with the peers it had; another set needs new data directories"
            )
        if record.max_replies != config.max_replies:
            raise StartRefused(f"max_replies was {record.max_replies} and is {config.max_replies}: it may not change, on any server")
        return record

    def _read(self) -> _Record:
        raw = self._disk.read(_FILE)
        body, _, check = raw.rpartition(b"\n")
        if check != b"%08x" % zlib.crc32(body):
            raise Corrupt(f"{_FILE}: checksum does not fit, offset 0; restore the file, or start with an empty data directory and --rejoin")
        try:
            record = msgspec.json.decode(body, type=_Record)
        except msgspec.MsgspecError as error:
            raise Corrupt(f"{_FILE}: {error}") from error
        if record.format != 1:
            raise StartRefused(f"{_FILE} is of format {record.format}, written by a later version")
        return record

    def _write(self, record: _Record) -> _Record:
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
        return msgspec.msgpack.encode(
            _Hello(
                protocol=PROTOCOL_VERSION,
                me=self._config.me,
                target=peer,
                cluster=self._cluster,
                incarnation=self._record.incarnation,
                rejoined=self._record.rejoined,
                peers=self._record.peers,
            )
        )

    def check(self, hello: bytes) -> tuple[str, bool]:
        """The peer's id, and whether it came back with a new data directory; ValueError with the reason otherwise.

        What is learnt is on disk before this returns."""
        try:
            theirs = _hello_decoder.decode(hello)
        except msgspec.MsgspecError as error:
            raise ValueError(f"not a hello of this protocol: {error}") from error
        config = self._config
        if theirs.protocol != PROTOCOL_VERSION:
            raise ValueError(f"server {config.me} speaks protocol {PROTOCOL_VERSION}, not {theirs.protocol}")
        if theirs.cluster != self._cluster:
            raise ValueError(f"server {config.me} belongs to another cluster: its peers are {', '.join(sorted(config.members))}")
        if theirs.target != config.me:
            raise ValueError(f"this is server {config.me}, not {theirs.target}")
        if theirs.me == config.me or theirs.me not in config.members:
            raise ValueError(f"server {config.me} has no peer {theirs.me}")
        peers = self._record.peers
        learnt = {m: i for m, i in theirs.peers.items() if m in config.members and m not in peers and m not in (config.me, theirs.me)}
        known = peers.get(theirs.me)
        if known == theirs.incarnation:
            if learnt:
                self._write(structs.replace(self._record, peers={**peers, **learnt}))
            return theirs.me, False
        retired = self._record.retired.get(theirs.me, [])
        if known is not None and (not theirs.rejoined or theirs.incarnation in retired):
            raise ValueError(
                f"{IDENTITY_USED}server {theirs.me} was here before with another data directory ({known[:8]}, this one is "
                f"{theirs.incarnation[:8]}); if its data is lost for good start it with --rejoin and an empty data directory"
            )
        if known is not None:
            retired = [*retired, known][-_RETIRED_KEPT:]
        self._write(
            structs.replace(
                self._record,
                peers={**peers, **learnt, theirs.me: theirs.incarnation},
                retired={**self._record.retired, theirs.me: retired},
            )
        )
        return theirs.me, known is not None


def _cluster_hash(config: RaftConfig) -> str:
    text = "\n".join([*sorted(config.members), str(config.max_replies)])
    return f"{zlib.crc32(text.encode()):08x}{zlib.adler32(text.encode()):08x}"
