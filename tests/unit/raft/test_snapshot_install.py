"""A snapshot offered to a member whose log already reaches beyond it."""

import pytest

from raft.engine import NO_OP
from raft.messages import SnapshotChunk
from raft.replica import Replica
from tests.unit.raft.cluster import Cluster


def behind() -> Replica:
    """A member that came back with twelve entries on its disk and does not know yet which of them are committed."""
    cluster = Cluster()
    replica = cluster.replicas["a:1"]
    for index in range(2, 13):
        replica.journal.add(NO_OP, index, 0 if index < 9 else 1)
    replica.sync()
    cluster.kill("a:1")
    cluster.start("a:1")
    return cluster.replicas["a:1"]


def chunk(index: int, term: int) -> SnapshotChunk:
    return SnapshotChunk(term=3, seq=1, snapshot_index=index, snapshot_term=term, offset=0, data=b"piece", first=True, last=False)


def test_is_not_installed_over_what_was_acknowledged() -> None:
    """PySyncObj would throw away entries 9 to 12, which a majority may have been counted for."""
    replica = behind()
    replica.guard.on_snapshot("b:1", chunk(8, 0))
    assert (replica.engine.last_index, replica.engine.commit_index) == (12, 8)
    (_, ack), *_ = [item for item in replica.outbox._held if type(item[1]).__name__ == "Ack"]
    assert (ack.next_index, ack.success, ack.reset) == (9, True, False)  # type: ignore[union-attr]
    assert "snapshot.incoming" not in replica.store._disk.list()


@pytest.mark.parametrize(("index", "term"), [(8, 2), (13, 1), (50, 3)])
def test_is_taken_where_the_log_differs_or_ends_before(index: int, term: int) -> None:
    replica = behind()
    replica.guard.on_snapshot("b:1", chunk(index, term))
    assert replica.engine.commit_index == 1
    assert "snapshot.incoming" in replica.store._disk.list()
