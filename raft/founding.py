"""A data directory made outside a running replica: the first member of a new log that begins with a given state.

For a restored backup, and for what is left when a majority is gone for good. The new log has a mark of its own, so no member of the old
one can speak to it; its terms begin beyond any the old one can have reached.
"""

import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random, SystemRandom

from raft.configuration import Seat
from raft.contract import Disk, Invitation, RaftConfig
from raft.disk import FileDisk
from raft.engine import NO_OP
from raft.errors import StartRefused
from raft.identity import Identity
from raft.journal import Journal
from raft.remains import FILES
from raft.replies import encode
from raft.snapshot import Header, SnapshotStore


def found(
    data_dir: Path, *, me: str, applied: int, state: Iterable[bytes], term: int, raft_index: int, random: Random | None = None
) -> None:
    """Make `data_dir`, which must be empty or missing, that of the only member (`me`: its Raft address) of a new log.

    `state` are the state machine's snapshot chunks after `applied` proposals; the log goes on from `raft_index` in `term`.
    StartRefused, OSError. Killed in the middle it leaves a directory that does not start.
    """
    disk = FileDisk(data_dir)
    try:
        if files := disk.list():
            raise StartRefused(f"{data_dir} is not empty ({', '.join(files[:5])}): name an empty data directory")
        write_founder(disk, me=me, applied=applied, state=state, term=term, raft_index=raft_index, random=random or SystemRandom())
    finally:
        disk.close()


def found_again(data_dir: Path, *, me: str, applied: int, state: Iterable[bytes], term: int, raft_index: int) -> Path:
    """`found` in the place of a log that cannot go on: its files are kept in a directory beside the new ones, which is returned.

    StartRefused, OSError. Killed in the middle it leaves a directory that does not start, with the old files whole in that directory.
    """
    disk = FileDisk(data_dir)
    try:
        fresh = data_dir / "recovering"
        shutil.rmtree(fresh, ignore_errors=True)
        found(fresh, me=me, applied=applied, state=state, term=term, raft_index=raft_index)
        kept = next(path for n in range(1, 1_000_000) if not (path := data_dir / f"before-recovery-{n}").exists())
        kept.mkdir(mode=0o700)
        # The identity first and last: without it nothing starts.
        for name in [name for name in disk.list() if name.startswith(FILES)]:
            os.rename(data_dir / name, kept / name)
        disk.sync_directory()
        for name in sorted(os.listdir(fresh), key=lambda name: (name == "identity", name)):
            if name.startswith(FILES):
                os.rename(fresh / name, data_dir / name)
                disk.sync_directory()
        shutil.rmtree(fresh)
    finally:
        disk.close()
    return kept


def write_founder(disk: Disk, *, me: str, applied: int, state: Iterable[bytes], term: int, raft_index: int, random: Random) -> None:
    """The files; `disk` is empty."""
    before, last = (NO_OP, raft_index, term), (NO_OP, raft_index + 1, term)
    store, header = SnapshotStore(disk), Header(before=before, last=last)
    store.write(header, _chunks(applied, state))
    store.adopt(header)
    journal = Journal(disk)
    journal.setCurrentTerm(term, None)
    journal.add(*before)
    journal.add(*last)
    journal.sync()
    journal.close()
    # Last, for nothing starts without it beside other files.
    alone = Invitation(cluster=random.randbytes(16).hex(), id=me, seats=(Seat(me, me, voter=True),))
    Identity(RaftConfig(me=me, members=(), invitation=alone), _Blank(disk), random).journal_made()


class _Blank:
    """A disk on which nothing stands yet, as far as the identity is concerned."""

    def __init__(self, disk: Disk) -> None:
        self.read, self.open_append, self.replace = disk.read, disk.open_append, disk.replace
        self.remove, self.sync_directory = disk.remove, disk.sync_directory

    def list(self) -> list[str]:
        return []


def _chunks(applied: int, state: Iterable[bytes]) -> Iterator[bytes]:
    # No answer to an earlier request is kept: who repeats one from before is told that nobody can know.
    yield from encode((applied, applied, []))
    yield from state
