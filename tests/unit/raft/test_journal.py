"""The journal as PySyncObj uses it, beside snapshots that do and do not fit, and on full or failing disks."""

import errno
import mmap
from pathlib import Path

import pytest

from raft.errors import Corrupt, StartRefused
from raft.journal import Journal, LogEntry, _encode, _record
from tests.unit.raft.memory_disk import Image, MemoryDisk


def entry(index: int, term: int = 1) -> LogEntry:
    return (b"command-%d" % index, index, term)


def filled(upto: int = 6, *, groups: int = 3) -> MemoryDisk:
    """A journal of `upto` entries, synced in groups, the ballot in the first."""
    disk = MemoryDisk()
    journal = Journal(disk)
    journal.setCurrentTerm(1, "host:1")
    for index in range(1, upto + 1):
        journal.add(*entry(index))
        if index % (upto // groups) == 0:
            journal.sync()
    return disk


def test_comes_back_with_entries_term_and_vote() -> None:
    journal = Journal(filled())
    assert journal[:] == [entry(index) for index in range(1, 7)]
    assert journal[-2:] == [entry(5), entry(6)]
    assert (journal.getCurrentTerm(), journal.getVotedForNodeId()) == (1, "host:1")
    assert journal.getRaftCommitIndex() == 1


def test_one_sync_for_a_group_and_none_for_nothing() -> None:
    disk = MemoryDisk()
    journal = Journal(disk)
    before, appends = disk.syncs, disk.appends
    for index in range(1, 4):
        journal.add(*entry(index))
    assert journal.dirty
    journal.sync()
    journal.sync()
    assert (disk.syncs, disk.appends) == (before + 1, appends + 1)
    assert not journal.dirty
    journal.setCurrentTerm(journal.getCurrentTerm(), journal.getVotedForNodeId())
    assert not journal.dirty


def test_a_vote_is_durable_after_sync_and_not_before() -> None:
    disk = filled()
    journal = Journal(disk)
    journal.setCurrentTerm(2, "host:2")
    assert Journal(MemoryDisk(disk.image())).getCurrentTerm() == 1
    journal.sync()
    again = Journal(MemoryDisk(disk.image()))
    assert (again.getCurrentTerm(), again.getVotedForNodeId()) == (2, "host:2")
    journal.setCurrentTerm(3, None)
    journal.sync()
    assert Journal(MemoryDisk(disk.image())).getVotedForNodeId() is None


def test_truncation_and_clearing_are_replayed() -> None:
    disk = filled()
    journal = Journal(disk)
    journal.deleteEntriesFrom(3)
    journal.add(*entry(4, term=2))
    journal.sync()
    assert Journal(MemoryDisk(disk.image()))[:] == [entry(1), entry(2), entry(3), entry(4, 2)]
    journal.clear()
    journal.add(*entry(40))
    journal.add(*entry(41))
    journal.sync()
    assert Journal(MemoryDisk(disk.image()), snapshot=(entry(40), entry(41)))[:] == [entry(40), entry(41)]


def test_what_a_compaction_makes_durable_includes_what_was_not_synced() -> None:
    disk = filled()
    journal = Journal(disk)
    journal.add(*entry(7))
    journal.setCurrentTerm(3, "host:3")
    journal.deleteEntriesTo(3)
    assert not journal.dirty
    again = Journal(MemoryDisk(disk.image()), snapshot=(entry(4), entry(5)))
    assert again[-1] == entry(7)
    assert (again.getCurrentTerm(), again.getVotedForNodeId()) == (3, "host:3")


def test_closing_does_not_vouch_for_what_was_not_synced() -> None:
    disk = filled()
    journal = Journal(disk)
    before = disk.image()
    journal.add(*entry(7))
    journal.onOneSecondTimer()
    journal.close()
    assert disk.image() == before


def test_closing_on_a_full_disk_is_no_error() -> None:
    disk = filled()
    journal = Journal(disk)
    disk.room = 0
    journal.close()
    assert len(Journal(MemoryDisk(disk.image()))) == 6


def test_is_aligned_with_a_snapshot_that_was_written_before_the_compaction() -> None:
    disk = filled()
    assert Journal(disk, snapshot=(entry(4), entry(5)))[:2] == [entry(4), entry(5)]
    assert Journal(MemoryDisk(disk.image()), snapshot=(entry(4), entry(5)))[:] == [entry(4), entry(5), entry(6)]
    assert Journal(filled(), snapshot=(entry(4), entry(5)), ablate=frozenset({"align"}))[0] == entry(1)


@pytest.mark.parametrize("snapshot", [(entry(1), entry(2)), (entry(6), entry(7)), (entry(8), entry(9)), (entry(4, 9), entry(5, 9))])
def test_is_left_alone_where_it_begins_there_ends_before_or_differs(snapshot: tuple[LogEntry, LogEntry]) -> None:
    """PySyncObj begins a new log then, and rightly: nothing behind the snapshot is lost."""
    assert Journal(filled(), snapshot=snapshot)[:] == [entry(index) for index in range(1, 7)]


def test_a_gap_behind_the_snapshot_is_refused() -> None:
    disk = filled()
    Journal(disk).deleteEntriesTo(4)
    with pytest.raises(StartRefused, match=r"begins at entry 5.*--rejoin"):
        Journal(disk, snapshot=(entry(2), entry(3)))


def test_a_compacted_journal_without_its_snapshot_is_refused() -> None:
    disk = filled()
    Journal(disk).deleteEntriesTo(4)
    with pytest.raises(StartRefused, match=r"begins at entry 5.*no snapshot.*--rejoin"):
        Journal(disk)


@pytest.mark.parametrize("content", [{}, {"journal": b""}, {"journal": bytes(8)}, {"journal": bytes(100)}])
def test_a_lost_journal_is_refused_where_there_was_one(content: Image) -> None:
    with pytest.raises(Corrupt, match="--rejoin"):
        Journal(MemoryDisk(content), snapshot=(entry(4), entry(5)))
    with pytest.raises(Corrupt, match="--rejoin"):
        Journal(MemoryDisk(content), must_exist=True)


def test_a_foreign_file_is_refused() -> None:
    with pytest.raises(Corrupt, match=r"offset 0.*no journal"):
        Journal(MemoryDisk({"journal": b"KAGOJNL2 and then"}))


def test_offsets_have_64_bits(tmp_path: Path) -> None:
    """A record beyond 4 GiB is not one of the same place modulo 4 GiB, and marks still say where they stand."""
    far = (5 << 32) + 77
    record = _encode(b"Epayload", far)
    assert record != _encode(b"Epayload", 77)
    with (tmp_path / "sparse").open("w+b") as file:
        file.seek(far)
        file.write(record)
        file.flush()
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            assert _record(data, far) == b"Epayload"  # type: ignore[arg-type]
    disk = filled()
    journal = Journal(disk)
    journal._end = far
    journal.add(*entry(7))
    journal.sync()
    assert far.to_bytes(8, "little") in disk.image()["journal"]


def test_a_full_disk_ends_the_journal_for_good() -> None:
    disk = filled()
    journal = Journal(disk)
    journal.add(*entry(7))
    disk.room = 20
    with pytest.raises(OSError, match="no space"):
        journal.sync()
    disk.room = None
    with pytest.raises(OSError, match="failed before"):
        journal.sync()
    assert Journal(MemoryDisk(disk.image()))[:] == [entry(index) for index in range(1, 7)]


def test_a_failed_sync_is_never_tried_again() -> None:
    disk = filled()
    journal = Journal(disk)
    journal.add(*entry(7))
    disk.failing = True
    with pytest.raises(OSError) as caught:
        journal.sync()
    assert caught.value.errno == errno.EIO
    disk.failing = False
    with pytest.raises(OSError, match="failed before"):
        journal.sync()


def test_a_disk_too_full_to_compact_keeps_the_old_file() -> None:
    for room in range(0, 120, 7):
        disk = filled()
        journal = Journal(disk)
        journal.add(*entry(7))
        disk.room = room
        journal.deleteEntriesTo(3)
        assert journal[:] == [entry(4), entry(5), entry(6), entry(7)]
        assert disk.list() == ["journal"]
        assert journal.bytes_since_compaction == 0, "it would try again at once, for ever"
        disk.room = None
        journal.sync()
        again = Journal(MemoryDisk(disk.image()), snapshot=(entry(4), entry(5)))
        assert again[:] == [entry(4), entry(5), entry(6), entry(7)]


@pytest.mark.parametrize("fault", ["sync", "open"])
def test_a_new_file_that_cannot_be_written_keeps_the_old_one(fault: str) -> None:
    disk = filled()
    journal = Journal(disk)
    disk.failing = fault == "sync"
    disk.failing_open = "journal.new" if fault == "open" else ""
    journal.deleteEntriesTo(3)
    disk.failing, disk.failing_open = False, ""
    journal.deleteEntriesFrom(2)
    journal.add(*entry(6, 2))
    journal.sync()
    assert Journal(disk, snapshot=(entry(4), entry(5)))[:] == [entry(4), entry(5), entry(6, 2)]


def test_a_rename_nobody_knows_the_end_of_ends_the_journal() -> None:
    disk = filled()
    journal = Journal(disk)
    disk.failing_replace = True
    with pytest.raises(OSError, match="input/output"):
        journal.deleteEntriesTo(3)
    before = disk.image()
    journal.add(*entry(7))
    with pytest.raises(OSError, match="failed before"):
        journal.sync()
    with pytest.raises(OSError, match="failed before"):
        journal.deleteEntriesTo(1)
    journal.close()
    assert disk.image() == before


def test_says_how_much_a_compaction_could_free() -> None:
    disk = MemoryDisk()
    journal = Journal(disk)
    for index in range(1, 101):
        journal.add(*entry(index))
    grown = journal.bytes_since_compaction
    assert grown > 100 * 25
    journal.deleteEntriesTo(98)
    assert journal.bytes_since_compaction < 100


def test_the_same_calls_give_the_same_bytes() -> None:
    assert filled().image() == filled().image()
