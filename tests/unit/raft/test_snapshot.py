"""Snapshot files: damaged at every byte, too old, too big for the disk, and sent from one member to another."""

import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from itertools import count
from random import Random

import msgspec
import pytest
from pysyncobj.config import SERIALIZER_STATE

from raft.contract import RaftConfig
from raft.errors import Corrupt, StartRefused
from raft.identity import Identity
from raft.journal import Journal, LogEntry
from raft.membership import Membership
from raft.snapshot import MAGIC, Header, SnapshotSerializer, SnapshotStore, parse
from tests.unit.raft.memory_disk import Died, MemoryDisk


def entry(index: int) -> LogEntry:
    return (b"command-%d" % index, index, 1)


def header(index: int) -> Header:
    return Header(before=entry(index - 1), last=entry(index))


def state(index: int) -> list[bytes]:
    return [b"state at %d" % index, b"", b"x" * 50]


def store(disk: MemoryDisk, *indexes: int) -> SnapshotStore:
    result = SnapshotStore(disk)
    for index in indexes:
        result.write(header(index), state(index))
        result.adopt(header(index))
    return result


class Later:
    """An executor that runs its jobs when it is told to."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Callable[[], int], Future[int]]] = []

    def submit(self, fn: Callable[[], int], /) -> "Future[int]":
        future: Future[int] = Future()
        self.jobs.append((fn, future))
        return future

    def run(self) -> None:
        for job, future in self.jobs:
            try:
                future.set_result(job())
            except OSError as error:
                future.set_exception(error)
        self.jobs.clear()


class Member:
    """A serializer with a state that is nothing but its chunks."""

    def __init__(self, disk: MemoryDisk, *, ablate: frozenset[str] = frozenset()) -> None:
        self.chunks: list[bytes] = []
        self.later, config = Later(), RaftConfig(me="a:1", members=("a:1",))
        self.store = SnapshotStore(disk)
        self.serializer = SnapshotSerializer(
            self.store,
            capture=self.capture,
            restore=self.restore,
            executor=self.later,
            configurations=Membership(config, Identity(config, MemoryDisk(), Random(1))),
            ablate=ablate,
            transfer_bytes=32,
        )

    def capture(self) -> Callable[[], Iterator[bytes]]:
        chunks = list(self.chunks)
        return lambda: iter(chunks)

    def restore(self, chunks: Iterable[bytes]) -> None:
        self.chunks = list(chunks)

    def begin(self, index: int) -> None:
        self.chunks = state(index)
        self.serializer.serialize((None, entry(index), entry(index - 1), None), index - 1)

    def end(self) -> tuple[int, int | None]:
        self.later.run()
        return self.serializer.checkSerializing()


def test_comes_back_and_keeps_the_newest_two() -> None:
    disk = MemoryDisk()
    store(disk, 10, 20, 30)
    assert disk.list() == ["snapshot-00000000000000000020", "snapshot-00000000000000000030"]
    again = SnapshotStore(disk)
    assert again.latest_entries() == (entry(29), entry(30))
    found, chunks = parse(again.read())
    assert (found, list(chunks)) == (header(30), state(30))


@pytest.mark.parametrize("flip", [0x01, 0xFF])
def test_damage_at_every_byte_is_seen_and_the_one_before_is_used(flip: int) -> None:
    disk = MemoryDisk()
    store(disk, 10, 20)
    image = disk.image()
    newest = "snapshot-00000000000000000020"
    for at in range(len(image[newest])):
        damaged = MemoryDisk(image)
        damaged.data(newest)[at] ^= flip
        assert SnapshotStore(damaged).latest == header(10)
        damaged.remove("snapshot-00000000000000000010")
        with pytest.raises(Corrupt, match=newest):
            SnapshotStore(damaged)


def test_a_short_file_is_damaged() -> None:
    disk = MemoryDisk()
    whole = store(disk, 10).read()
    for end in range(len(whole)):
        with pytest.raises(ValueError, match=r"."):
            parse(whole[:end])


def test_a_damaged_one_is_forgotten_when_a_newer_one_is_there() -> None:
    disk = MemoryDisk()
    store(disk, 10, 20)
    disk.data("snapshot-00000000000000000020")[30] ^= 1
    store(disk, 30)
    assert disk.list() == ["snapshot-00000000000000000010", "snapshot-00000000000000000030"]


def test_is_written_while_the_log_goes_on() -> None:
    member = Member(MemoryDisk())
    member.begin(10)
    assert member.serializer.checkSerializing() == (SERIALIZER_STATE.SERIALIZING, 9)
    member.chunks = [b"later state"]
    assert member.end() == (SERIALIZER_STATE.SUCCESS, 9)
    assert member.serializer.checkSerializing() == (SERIALIZER_STATE.NOT_SERIALIZING, None)
    data = member.serializer.deserialize()
    assert data[1:3] == (entry(10), entry(9))
    assert member.chunks == state(10)


def send(source: Member, target: Member) -> list[bool]:
    taken = []
    while True:
        piece = source.serializer.getTransmissionData("peer")
        assert piece is not None
        taken.append(target.serializer.setTransmissionData(piece))
        if piece[2]:
            return taken


def test_goes_over_the_wire_in_pieces() -> None:
    source, target = Member(MemoryDisk()), Member(MemoryDisk())
    source.begin(10)
    source.end()
    taken = send(source, target)
    assert len(taken) > 3
    assert taken == [False] * (len(taken) - 1) + [True]
    target.serializer.deserialize()
    assert target.chunks == state(10)


def test_the_last_one_is_sent_while_another_is_written() -> None:
    source, target = Member(MemoryDisk()), Member(MemoryDisk())
    source.begin(10)
    source.end()
    source.begin(20)
    assert send(source, target)[-1]
    assert target.store.latest == header(10)


def test_a_damaged_piece_replaces_nothing() -> None:
    source, target = Member(MemoryDisk()), Member(MemoryDisk())
    source.begin(10)
    source.end()
    while True:
        piece = source.serializer.getTransmissionData("peer")
        assert piece is not None
        data, first, last = piece
        assert not target.serializer.setTransmissionData((data[:-1] + bytes([data[-1] ^ 1]), first, last))
        if last:
            break
    assert target.store.latest is None
    assert target.store._names() == []


def test_pieces_without_a_beginning_are_refused() -> None:
    assert not Member(MemoryDisk()).serializer.setTransmissionData((b"rest", False, True))


@pytest.mark.parametrize(("ablate", "wanted"), [(frozenset[str](), 20), (frozenset({"abandon"}), 10)])
def test_one_begun_before_a_newer_one_was_installed_is_abandoned(ablate: frozenset[str], wanted: int) -> None:
    source, target = Member(MemoryDisk()), Member(MemoryDisk(), ablate=ablate)
    source.begin(20)
    source.end()
    target.begin(10)
    assert send(source, target)[-1]
    target.end()
    assert target.store.latest == header(wanted)


def test_an_older_one_from_the_wire_is_refused() -> None:
    source, target = Member(MemoryDisk()), Member(MemoryDisk())
    source.begin(10)
    source.end()
    target.begin(20)
    target.end()
    assert not send(source, target)[-1]
    assert target.store.latest == header(20)


def test_a_full_disk_fails_the_snapshot_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    disk = MemoryDisk()
    member = Member(disk)
    member.begin(10)
    member.end()
    for room in range(0, 100, 9):
        caplog.clear()
        disk.room = room
        member.begin(20)
        assert member.end()[0] == SERIALIZER_STATE.FAILED
        assert len(caplog.records) == 1
        assert member.store.latest == header(10)
        assert disk.list() == ["snapshot-00000000000000000010"]
    disk.room = None
    member.begin(20)
    assert member.end()[0] == SERIALIZER_STATE.SUCCESS


def test_a_full_disk_refuses_the_leaders_snapshot_and_takes_the_next_one() -> None:
    disk = MemoryDisk()
    source, target = Member(MemoryDisk()), Member(disk)
    source.begin(10)
    source.end()
    disk.room = 50
    assert not any(send(source, target))
    assert disk.list() == []
    disk.room = None
    assert send(source, target)[-1]


def test_what_was_being_written_is_removed_at_the_start() -> None:
    disk = MemoryDisk({"snapshot.writing": b"half", "snapshot.incoming": b"half"})
    assert SnapshotStore(disk).latest is None
    assert disk.list() == []


def test_death_at_every_byte_of_writing_leaves_the_one_before_or_the_new_one() -> None:
    """With and without power; and whatever is left, the next one is written beside it."""
    for life in count():
        disk = MemoryDisk()
        kept = store(disk, 10)
        disk.life = life
        try:
            kept.write(header(20), state(20))
            finished = True
        except Died:
            finished = False
        disk.life = None
        for image in (disk.image(), *disk.after_power_loss(stride=9)):
            after = MemoryDisk(image)
            again = SnapshotStore(after)
            assert again.latest is not None
            assert again.latest.index in ((20,) if finished else (10, 20))
            assert list(parse(again.read())[1]) == state(again.latest.index)
            again.write(header(30), state(30))
            assert again.adopt(header(30))
            assert SnapshotStore(after).latest == header(30)
        if finished:
            break


def test_death_at_every_byte_of_receiving_leaves_the_one_before_or_the_new_one() -> None:
    data = store(MemoryDisk(), 20).read()
    for life in count():
        disk = MemoryDisk()
        kept = store(disk, 10)
        disk.life = life
        try:
            assert not kept.receive(data[:50], first=True, last=False)
            assert kept.receive(data[50:], first=False, last=True)
            finished = True
        except Died:
            finished = False
        disk.life = None
        for image in (disk.image(), *disk.after_power_loss(stride=9)):
            again = SnapshotStore(MemoryDisk(image))
            assert again.latest in ((header(20),) if finished else (header(10), header(20)))
        if finished:
            break


def test_the_one_before_counts_only_where_the_journal_covers_the_gap() -> None:
    for compacted in (False, True):
        disk = MemoryDisk()
        journal = Journal(disk)
        for index in range(1, 31):
            journal.add(*entry(index))
        journal.sync()
        store(disk, 10, 20)
        if compacted:
            journal.deleteEntriesTo(18)
        disk.data("snapshot-00000000000000000020")[20] ^= 4
        snapshots = SnapshotStore(disk)
        assert snapshots.latest == header(10)
        if compacted:
            with pytest.raises(StartRefused, match=r"begins at entry 19.*usable snapshot \(10\)"):
                Journal(disk, snapshot=snapshots.latest_entries())
        else:
            assert Journal(disk, snapshot=snapshots.latest_entries())[:] == [entry(index) for index in range(9, 31)]


def test_a_sound_checksum_over_nonsense_is_no_snapshot() -> None:
    encoded = msgspec.msgpack.encode(header(10))
    bodies = [
        MAGIC,
        MAGIC + bytes(2),
        MAGIC + (1 << 31).to_bytes(4, "little") + encoded,
        MAGIC + (3).to_bytes(4, "little") + b"abc",
        MAGIC + len(encoded).to_bytes(4, "little") + encoded + (99).to_bytes(4, "little") + b"short",
        MAGIC + len(encoded).to_bytes(4, "little") + encoded + b"\1",
    ]
    for body in bodies:
        data = body + struct.pack("<IQI", 0xFFFFFFFF, len(body), zlib.crc32(body))
        with pytest.raises(ValueError, match=r"."):
            parse(data)


def test_an_interrupted_transfer_begins_anew_and_disturbs_no_other() -> None:
    source, target, other = Member(MemoryDisk()), Member(MemoryDisk()), Member(MemoryDisk())
    source.begin(10)
    source.end()
    for _ in range(3):
        piece = source.serializer.getTransmissionData("peer")
        assert piece is not None
        target.serializer.setTransmissionData(piece)
    begun = source.serializer.getTransmissionData("other")
    assert begun is not None
    other.serializer.setTransmissionData(begun)
    source.serializer.cancelTransmisstion("peer")
    source.begin(20)
    source.end()
    assert source.serializer.transmission_last("other") == (10, 1)
    assert send(source, target)[-1]
    assert target.store.latest == header(20)
    while not begun[2]:
        begun = source.serializer.getTransmissionData("other")
        assert begun is not None
        taken = other.serializer.setTransmissionData(begun)
    assert taken
    assert other.store.latest == header(10)


def test_a_lost_piece_makes_the_whole_worthless() -> None:
    source, target = Member(MemoryDisk()), Member(MemoryDisk())
    source.begin(10)
    source.end()
    pieces: list[tuple[bytes, bool, bool]] = []
    while not pieces or not pieces[-1][2]:
        piece = source.serializer.getTransmissionData("peer")
        assert piece is not None
        pieces.append(piece)
    for lost in range(len(pieces)):
        assert not any(target.serializer.setTransmissionData(piece) for i, piece in enumerate(pieces) if i != lost)
        assert target.store.latest is None
    assert [target.serializer.setTransmissionData(piece) for piece in pieces][-1]


def test_one_damaged_on_the_disk_is_not_sent_and_the_next_one_is(caplog: pytest.LogCaptureFixture) -> None:
    disk = MemoryDisk()
    source, target = Member(disk), Member(MemoryDisk())
    source.begin(10)
    source.end()
    disk.data("snapshot-00000000000000000010")[30] ^= 1
    assert source.serializer.getTransmissionData("peer") is None
    assert source.serializer.getTransmissionData("peer") is None
    assert [record.message for record in caplog.records if "cannot be sent" in record.message] == [caplog.records[0].message]
    source.begin(20)
    source.end()
    assert send(source, target)[-1]


def test_a_bug_in_encoding_the_state_is_not_taken_for_a_full_disk() -> None:
    disk = MemoryDisk()

    def broken() -> Iterator[bytes]:
        yield b"some"
        raise RuntimeError("bug")

    snapshots = SnapshotStore(disk)
    with pytest.raises(RuntimeError, match="bug"):
        snapshots.write(header(10), broken())
    assert disk.list() == []
