"""Backups of a running server, and data directories that begin again: from one, or from what is left of a cluster."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from kago.core.state.backup import TERM_LEAP, Backup, Header, encode, reborn
from kago.core.state.machine import Machine, TooNew
from kago.core.state.tables import Tables
from kago.server.store import Store
from raft.errors import LogError
from raft.founding import found, found_again
from raft.remains import Remains, examine


def take(store: Store, *, version: str) -> tuple[Header, Iterator[bytes]]:
    """The state of this moment as a backup file in pieces; they may be made later and on another thread."""
    tables, status = store.tables, store.status()
    header = Header(
        cluster_id=tables.cluster.id,
        index=tables.index,
        epoch=tables.cluster.epoch,
        term=status.term,
        raft_index=status.raft_applied_index,
        schema=tables.cluster.schema_version,
        digest=store.machine.digest,
        taken_at=store.clock.now(),
        taken_by=status.me,
        software_version=version,
        members=tuple(tables.servers[id] for id in sorted(tables.servers)),
    )
    return header, encode(header, store.machine.snapshot()())


def restore(backup: Backup, data_dir: Path, *, me: str) -> int:
    """Make `data_dir` (empty) that of a cluster of one, which goes on from the backup; the index it begins with.

    ValueError where the directory cannot be it, OSError."""
    header = backup.header
    index, chunks = reborn(backup.tables, backup.digest)
    term = max(header.term, header.epoch) + TERM_LEAP
    try:
        found(data_dir, me=me, applied=index, state=chunks, term=term, raft_index=header.raft_index + 1)
    except LogError as error:
        raise ValueError(str(error)) from error
    return index


class Survivor(Struct, frozen=True, kw_only=True):
    """What a stopped server's data directory holds."""

    data_dir: Path
    remains: Remains
    tables: Tables
    digest: str
    changed_at: float
    """Of its last change, seconds since the epoch; 0 where its log holds none."""


def examine_survivor(data_dir: Path) -> Survivor:
    """Read a data directory and change nothing in it. ValueError with the reason, OSError."""
    machine = _Dated()
    try:
        remains = examine(data_dir, machine)
    except (LogError, TooNew) as error:
        raise ValueError(str(error)) from error
    return Survivor(data_dir=data_dir, remains=remains, tables=machine.tables, digest=machine.digest, changed_at=machine.changed_at)


def recover(survivor: Survivor) -> tuple[int, Path]:
    """Make a survivor the only server of a new life of its cluster: the index it begins with, and where its old files are.

    ValueError, OSError."""
    remains = survivor.remains
    index, chunks = reborn(survivor.tables, bytes.fromhex(survivor.digest))
    term = max(remains.term, survivor.tables.cluster.epoch) + TERM_LEAP
    try:
        kept = found_again(
            survivor.data_dir, me=remains.address, applied=index, state=chunks, term=term, raft_index=remains.last_index + 1
        )
    except LogError as error:
        raise ValueError(str(error)) from error
    return index, kept


class _Dated(Machine):
    """Remembers when the last entry was proposed."""

    changed_at = 0.0

    def apply(self, index: int, entry: bytes) -> bytes:
        self.changed_at = max(self.changed_at, msgspec.msgpack.decode(entry, type=_At).at)
        return super().apply(index, entry)


class _At(Struct):
    at: float = 0.0
