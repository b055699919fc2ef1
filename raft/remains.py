"""What a stopped member's data directory holds, read without changing a byte of it: for when a majority is gone for good.

Everything in the log is taken as committed. Whoever acknowledged an entry had it on a majority's disks, so what the best survivor has and
nobody else can contradict is either that or a write whose outcome nobody was told; what no survivor has is lost.
"""

from pathlib import Path
from random import Random
from typing import cast

from msgspec import Struct

from raft.applier import Applier
from raft.configuration import Seat
from raft.contract import Disk, File, RaftConfig, StateMachine
from raft.disk import FileDisk
from raft.engine import REGULAR
from raft.errors import StartRefused
from raft.identity import Identity
from raft.journal import Journal
from raft.membership import Membership
from raft.proposals import Proposals
from raft.replies import Replies
from raft.snapshot import SnapshotStore, parse

FILES = ("identity", "journal", "snapshot-")
"""Names of the log's own files begin so."""


class Remains(Struct, frozen=True, kw_only=True):
    id: str
    address: str
    cluster: str
    """The log's mark: only directories with the same belong together."""
    seats: tuple[Seat, ...]
    """The members as this one last knew them."""
    term: int
    """The highest it took part in."""
    last_index: int
    last_term: int
    applied: int
    """Proposals in it: the state's index."""

    @property
    def rank(self) -> tuple[int, int]:
        """Of two members of one log the one with the greater has all that was committed and the other has."""
        return self.last_term, self.last_index


def examine(data_dir: Path, machine: StateMachine) -> Remains:
    """What is there, with all of it applied to `machine`. StartRefused, Corrupt, OSError; also while a process uses the directory."""
    if not (data_dir / "identity").is_file():
        raise StartRefused(f"{data_dir} is not a server's data directory")
    disk = FileDisk(data_dir)
    try:
        return read_remains(disk, machine)
    except ValueError as error:
        raise StartRefused(f"{data_dir}: {error}") from error
    finally:
        disk.close()


def read_remains(disk: Disk, machine: StateMachine) -> Remains:
    """`examine` on a disk."""
    shadow = _Shadow(disk)
    config = RaftConfig(me="", members=())
    identity = Identity(config, shadow, Random())
    store = SnapshotStore(shadow)
    journal = Journal(shadow, snapshot=store.latest_entries(), must_exist=identity.has_journal)
    membership = Membership(config, identity)
    membership.open(store.latest.configuration if store.latest else None, journal[:])
    applier = Applier(machine, replies := Replies(config.max_replies), cast(Proposals, _Nobody()), dedupe=True)
    covered = 0
    if store.latest is not None:
        applier.restore(parse(store.read())[1])
        covered = store.latest.index
    for command, index, _ in journal[:]:
        if index > covered and command[:1] == REGULAR:
            applier.apply(command[1:])
    last = journal[-1] if len(journal) else (b"", 0, 0)
    return Remains(
        id=identity.id,
        address=identity.address,
        cluster=identity.cluster,
        seats=membership.latest.seats,
        term=journal.getCurrentTerm(),
        last_index=last[1],
        last_term=last[2],
        applied=replies.applied,
    )


class _Nobody:
    """Stands for those who wait for their proposals' answers."""

    def applied(self, request_id: bytes, outcome: object) -> None: ...
    def restored(self) -> None: ...


class _Shadow:
    """A disk as it is, and what is written to it in memory only."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._written: dict[str, bytearray] = {}
        self._removed: set[str] = set()

    def list(self) -> list[str]:
        return sorted((set(self._disk.list()) - self._removed) | self._written.keys())

    def read(self, name: str) -> bytes:
        if name in self._written:
            return bytes(self._written[name])
        if name in self._removed:
            raise FileNotFoundError(name)
        return self._disk.read(name)

    def open_append(self, name: str, *, truncate_to: int | None = None) -> File:
        if name not in self._written:
            try:
                self._written[name] = bytearray(self.read(name))
            except FileNotFoundError:
                self._written[name] = bytearray()
        if truncate_to is not None:
            del self._written[name][truncate_to:]
        return _ShadowFile(self._written[name])

    def replace(self, source: str, target: str) -> None:
        self._written[target] = bytearray(self.read(source))
        self.remove(source)

    def remove(self, name: str) -> None:
        self._written.pop(name, None)
        self._removed.add(name)

    def sync_directory(self) -> None: ...


class _ShadowFile:
    def __init__(self, content: bytearray) -> None:
        self._content = content

    def append(self, data: bytes) -> None:
        self._content += data

    def sync(self) -> None: ...
    def size(self) -> int:
        return len(self._content)

    def close(self) -> None: ...
