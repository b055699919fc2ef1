"""Backups of a running server, and a data directory that begins again from one."""

from collections.abc import Iterator
from pathlib import Path

from kago.core.state.backup import TERM_LEAP, Backup, Header, encode, reborn
from kago.server.store import Store
from raft.errors import LogError
from raft.founding import found


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
