"""When a snapshot is due."""

import zlib

from raft.contract import RaftConfig
from raft.engine import Engine
from raft.journal import Journal
from raft.pipeline import NEVER
from raft.snapshot import SnapshotSerializer, SnapshotStore

_AGAIN_S = 5.0


class Compaction:
    """Starts one when the journal has grown enough; on each member at another length, so that they do not all write at once."""

    def __init__(self, config: RaftConfig, journal: Journal, store: SnapshotStore, serializer: SnapshotSerializer) -> None:
        self._config, self._journal, self._store, self._serializer = config, journal, store, serializer
        self._stagger = 1.0 + 0.25 * (zlib.crc32(config.me.encode()) % 101) / 100
        self._tried_at = NEVER
        self._before: object = None

    def step(self, engine: Engine, now: float) -> None:
        journal, config = self._journal, self._config
        long = len(journal) > config.snapshot_every_entries * self._stagger
        if self._serializer.busy or not (long or journal.bytes_since_compaction > config.snapshot_every_bytes * self._stagger):
            return
        if 2 * (engine.applied_index - engine.first_index) < len(journal):
            return  # A server that starts has not heard yet how much of it is committed: a snapshot would let go of little.
        latest = self._store.latest_entries()
        if latest == self._before and now < self._tried_at + _AGAIN_S:
            return  # The last attempt came to nothing, as it does on a full disk: do not spend everything on trying.
        self._before, self._tried_at = latest, now
        engine.compact()
