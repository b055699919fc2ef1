"""Snapshot files: damaged at every byte, too old, too big for the disk, and sent from one member to another."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future

import pytest
from pysyncobj.config import SERIALIZER_STATE

from raft.errors import Corrupt
from raft.journal import LogEntry
from raft.snapshot import Header, SnapshotSerializer, SnapshotStore, parse
from tests.unit.raft.memory_disk import MemoryDisk


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
        self.later = Later()
        self.store = SnapshotStore(disk)
        self.serializer = SnapshotSerializer(
            self.store, capture=self.capture, restore=self.restore, executor=self.later, ablate=ablate, transfer_bytes=32
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
        damaged.files[newest][at] ^= flip
        assert SnapshotStore(damaged).latest == header(10)
        del damaged.files["snapshot-00000000000000000010"]
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
    disk.files["snapshot-00000000000000000020"][30] ^= 1
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
