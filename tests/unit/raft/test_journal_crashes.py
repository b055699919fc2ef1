"""The journal after a crash at every byte and damage at every byte: what was synced is there, what was not is a prefix or refused."""

import errno
from collections.abc import Callable
from itertools import count

import pytest

from raft.errors import Corrupt
from raft.journal import Journal
from tests.unit.raft.memory_disk import Died, MemoryDisk
from tests.unit.raft.test_journal import entry, filled


def die_everywhere(prepare: Callable[[], tuple[MemoryDisk, Callable[[], None]]], check: Callable[[MemoryDisk, bool], None]) -> None:
    """Run what `prepare` returns with every length of life, and `check` each disk and whether it got to its end."""
    for life in count():
        disk, act = prepare()
        disk.life = life
        try:
            act()
        except Died:
            finished = False
        else:
            finished = True
        disk.life = None
        check(disk, finished)
        if finished:
            return


def test_death_at_every_byte_of_an_append_keeps_what_was_synced() -> None:
    """With and without power. Also: what survives is a prefix, and the journal goes on from there."""

    def prepare() -> tuple[MemoryDisk, Callable[[], None]]:
        disk = filled()
        journal = Journal(disk)
        for index in (7, 8, 9):
            journal.add(*entry(index))
        return disk, journal.sync

    def check(disk: MemoryDisk, finished: bool) -> None:
        assert not finished or list(disk.after_power_loss()) == [disk.image()] * 2
        for image in (disk.image(), *disk.after_power_loss(stride=11)):
            after = MemoryDisk(image)
            again = Journal(after)
            assert (9 if finished else 6) <= len(again) <= 9
            assert again[:] == [entry(index) for index in range(1, len(again) + 1)]
            assert again.getVotedForNodeId() == "host:1"
            again.add(*entry(len(again) + 1))
            again.sync()
            assert Journal(MemoryDisk(after.image()))[:] == again[:]

    die_everywhere(prepare, check)


def test_death_at_every_byte_of_a_compaction_loses_nothing() -> None:
    def prepare() -> tuple[MemoryDisk, Callable[[], None]]:
        disk = filled()
        journal = Journal(disk)
        return disk, lambda: journal.deleteEntriesTo(3)

    def check(disk: MemoryDisk, finished: bool) -> None:
        for image in (disk.image(), *disk.after_power_loss(stride=7)):
            after = MemoryDisk(image)
            again = Journal(after, snapshot=(entry(4), entry(5)))
            assert again[:] == [entry(4), entry(5), entry(6)]
            assert (again.getCurrentTerm(), again.getVotedForNodeId()) == (1, "host:1")
            assert after.list() == ["journal"]

    die_everywhere(prepare, check)


def test_death_at_every_byte_of_the_first_opening_leaves_an_empty_journal() -> None:
    def prepare() -> tuple[MemoryDisk, Callable[[], None]]:
        disk = MemoryDisk()
        return disk, lambda: Journal(disk).close()

    def check(disk: MemoryDisk, finished: bool) -> None:
        for image in (disk.image(), *disk.after_power_loss()):
            assert len(Journal(MemoryDisk(image))) == 0

    die_everywhere(prepare, check)


def test_death_while_a_torn_tail_is_cut_off_and_written_over_brings_nothing_stale_back() -> None:
    """The new entries have the length of the old ones, so every old record stands where a new one belongs."""
    torn = bytearray(filled().image()["journal"])
    torn[len(filled(4, groups=2).image()["journal"]) + 30] ^= 1

    def prepare() -> tuple[MemoryDisk, Callable[[], None]]:
        disk = MemoryDisk({"journal": bytes(torn)})

        def act() -> None:
            journal = Journal(disk)
            for index in range(len(journal) + 1, 6):
                journal.add(*entry(index, term=2))
            journal.sync()

        return disk, act

    def check(disk: MemoryDisk, finished: bool) -> None:
        for image in (disk.image(), *disk.after_power_loss(stride=13)):
            again = Journal(MemoryDisk(image))
            assert len(again) == 5 if finished else 4 <= len(again) <= 5
            assert all(term == (1 if index <= 4 else 2) for _, index, term in again[:])

    die_everywhere(prepare, check)


def test_what_was_truncated_never_comes_back() -> None:
    """Wherever the file is cut, the log is what it was at some moment, and never an earlier one for a later cut."""
    disk = filled()
    journal = Journal(disk)
    moments = [(journal[:], len(disk.image()["journal"]))]
    for term in (2, 3, 4):
        journal.deleteEntriesFrom(6 - term)
        moments.append((journal[:], 0))
        for index in range(7 - term, 7):
            journal.add(*entry(index, term))
            moments.append((journal[:], 0))
        journal.sync()
        moments[-1] = (journal[:], len(disk.image()["journal"]))
    whole, moment, synced = disk.image()["journal"], 0, 0
    logs = [log for log, _ in moments]
    for end in range(moments[0][1], len(whole) + 1):
        moment = logs.index(Journal(MemoryDisk({"journal": whole[:end]}))[:], moment)
        synced = max([synced, *(i for i, (_, size) in enumerate(moments) if 0 < size <= end)])
        assert moment >= synced
    assert moment == synced == len(moments) - 1


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


def test_damage_to_the_last_group_is_refused_once_it_was_vouched_for() -> None:
    """By the timer, by closing it, or by the next group; closing it twice or idling on adds nothing."""

    def by_timer(journal: Journal) -> None:
        for _ in range(3):
            journal.onOneSecondTimer()
            journal.sync()

    def by_closing(journal: Journal) -> None:
        journal.close()
        journal.close()

    grown = []
    for vouch in (by_timer, by_closing):
        disk = filled()
        written = len(disk.image()["journal"])
        vouch(Journal(disk))
        whole = disk.image()["journal"]
        grown.append(len(whole) - written)
        for at in range(written):
            damaged = bytearray(whole)
            damaged[at] ^= 0x40
            with pytest.raises(Corrupt, match="journal at offset"):
                Journal(MemoryDisk({"journal": bytes(damaged)}))
        by_closing(Journal(disk))
        assert disk.image()["journal"] == whole
    assert grown[0] == grown[1] == 17


def test_a_disk_full_after_any_byte_leaves_a_torn_tail() -> None:
    for room in count():
        disk = filled()
        journal = Journal(disk)
        journal.add(*entry(7))
        disk.room = room
        try:
            journal.sync()
        except OSError as error:
            assert error.errno == errno.ENOSPC
        else:
            break
        assert 6 <= len(Journal(MemoryDisk(disk.image()))) <= 7
    assert room > 50
