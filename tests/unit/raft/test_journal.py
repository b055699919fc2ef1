"""The journal after crashes at every byte, damage at every byte, and full or failing disks."""

import errno
from itertools import count

import pytest

from raft.errors import Corrupt, StartRefused
from raft.journal import Journal, LogEntry
from tests.unit.raft.memory_disk import Died, MemoryDisk


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
    before = disk.syncs
    for index in range(1, 4):
        journal.add(*entry(index))
    assert journal.dirty
    journal.sync()
    journal.sync()
    assert disk.syncs == before + 1
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
    journal.sync()
    assert Journal(MemoryDisk(disk.image()))[:] == [entry(40)]


def test_death_at_every_byte_of_an_append_keeps_what_was_synced() -> None:
    """Also: what survives is a prefix, and the journal goes on from there."""
    for life in count():
        disk = filled()
        journal = Journal(disk)
        for index in (7, 8, 9):
            journal.add(*entry(index))
        disk.life = life
        try:
            journal.sync()
        except Died:
            finished = False
        else:
            finished = True
        after = MemoryDisk(disk.image())
        again = Journal(after)
        assert 6 <= len(again) <= 9
        assert again[:] == [entry(index) for index in range(1, len(again) + 1)]
        again.add(*entry(len(again) + 1))
        again.sync()
        assert len(Journal(MemoryDisk(after.image()))) == len(again)
        if finished:
            assert len(again) == 10
            return


def test_death_at_every_byte_of_a_compaction_loses_nothing() -> None:
    for life in count():
        disk = filled()
        journal = Journal(disk)
        disk.life = life
        try:
            journal.deleteEntriesTo(3)
        except Died:
            finished = False
        else:
            finished = True
        again = Journal(MemoryDisk(disk.image()), snapshot=(entry(4), entry(5)))
        assert again[:] == [entry(4), entry(5), entry(6)]
        assert (again.getCurrentTerm(), again.getVotedForNodeId()) == (1, "host:1")
        if finished:
            return


def test_a_file_cut_anywhere_in_the_last_group_is_a_torn_tail() -> None:
    disk = filled(4, groups=2)
    whole = disk.image()["journal"]
    two = len(filled(2, groups=1).image()["journal"])
    for end in range(two, len(whole)):
        again = Journal(MemoryDisk({"journal": whole[:end]}))
        assert again[:] == [entry(index) for index in range(1, len(again) + 1)]
        assert len(again) >= 2


@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
def test_damage_at_every_byte_is_refused_unless_a_crash_explains_it(flip: int) -> None:
    whole = filled(4, groups=2).image()["journal"]
    durable = len(filled(2, groups=1).image()["journal"])
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= flip
        if at < durable:
            with pytest.raises(Corrupt, match="journal at offset"):
                Journal(MemoryDisk({"journal": bytes(damaged)}))
        else:
            assert Journal(MemoryDisk({"journal": bytes(damaged)}))[:2] == [entry(1), entry(2)]


def test_a_hole_in_the_group_that_was_never_synced_is_legal() -> None:
    """Pages reach the platter in any order: later ones may be there and earlier ones zero."""
    whole = filled(4, groups=2).image()["journal"]
    durable = len(filled(2, groups=1).image()["journal"])
    for hole in range(durable, len(whole) - 4):
        torn = whole[:hole] + bytes(4) + whole[hole + 4 :]
        again = Journal(MemoryDisk({"journal": torn}))
        assert again[:] == [entry(index) for index in range(1, len(again) + 1)]


def test_damage_at_every_byte_of_a_compacted_file_is_refused() -> None:
    """It got its name after it was durable, so no crash explains it; only its closing mark may be torn."""
    disk = filled()
    Journal(disk).deleteEntriesTo(3)
    whole = disk.image()["journal"]
    mark = whole.rindex(b"S") - 8
    for at in range(mark):
        damaged = bytearray(whole)
        damaged[at] ^= 0x10
        with pytest.raises(Corrupt):
            Journal(MemoryDisk({"journal": bytes(damaged)}))


def test_is_aligned_with_a_snapshot_that_was_written_before_the_compaction() -> None:
    assert Journal(filled(), snapshot=(entry(4), entry(5)))[:2] == [entry(4), entry(5)]
    assert Journal(filled(), snapshot=(entry(4), entry(5)), ablate=frozenset({"align"}))[0] == entry(1)


def test_a_gap_behind_the_snapshot_is_refused() -> None:
    disk = filled()
    Journal(disk).deleteEntriesTo(4)
    with pytest.raises(StartRefused, match="begins at entry 5"):
        Journal(disk, snapshot=(entry(2), entry(3)))


@pytest.mark.parametrize("content", [{}, {"journal": b""}, {"journal": bytes(100)}])
def test_a_lost_journal_beside_a_snapshot_is_refused(content: dict[str, bytes]) -> None:
    with pytest.raises(Corrupt, match="--rejoin"):
        Journal(MemoryDisk(content), snapshot=(entry(4), entry(5)))


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
        disk.room = room
        journal.deleteEntriesTo(3)
        assert journal[:] == [entry(4), entry(5), entry(6)]
        assert "journal.new" not in disk.files
        disk.room = None
        journal.add(*entry(7))
        journal.sync()
        again = Journal(MemoryDisk(disk.image()), snapshot=(entry(4), entry(5)))
        assert again[:] == [entry(4), entry(5), entry(6), entry(7)]


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
