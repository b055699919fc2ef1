"""Damaged files: what servers and agents find when they start, and what one member is sent by another."""

import tempfile
import zlib
from hashlib import blake2b
from pathlib import Path
from random import Random

import msgspec

from kago.agent.notes import FILE, DataDirError, Notebook, Notes
from kago.core.state import backup
from kago.core.state.snapshot import read_snapshot
from raft.contract import RaftConfig
from raft.errors import Corrupt, StartRefused
from raft.identity import Identity
from raft.journal import Journal, LogEntry
from raft.snapshot import _END, _TRAILER, Header, SnapshotStore
from tests.fuzz.mutations import Case, mutated, shaped
from tests.fuzz.texts import peopled
from tests.unit.raft.memory_disk import MemoryDisk


def _entry(index: int) -> LogEntry:
    return (b"command-%d" % index, index, 1)


def journals(chance: Random) -> Case:
    """Journal files: what is read is what was written, from the beginning on, or nothing is read at all."""
    disk = MemoryDisk()
    journal = Journal(disk)
    journal.setCurrentTerm(7, "host:1")
    for index in range(1, 13):
        journal.add(*_entry(index))
        if index % 3 == 0:
            journal.sync()
    journal.sync()
    (name, good), written = next(iter(disk.image().items())), [_entry(index) for index in range(1, 13)]

    def case(chance: Random) -> str:
        try:
            found = Journal(MemoryDisk({name: mutated(chance, good, [good])}))
        except (Corrupt, StartRefused):
            return "refused"
        assert found[:] == written[: len(found)], "entries that were never written"
        return "taken"

    return case


def snapshots(chance: Random) -> Case:
    """Snapshot files, and the same as a leader would send them."""
    disk = MemoryDisk()
    store = SnapshotStore(disk)
    header = Header(before=_entry(8), last=_entry(9))
    store.write(header, [b"state " * 40, b"", b"x" * 50])
    store.adopt(header)
    image = disk.image()
    name, good = next((name, data) for name, data in image.items() if data)

    def case(chance: Random) -> str:
        data = mutated(chance, good, [good])
        if chance.random() < 0.3:
            data = sealed(mutated(chance, good[:-_TRAILER.size], [good]))
        try:
            if chance.random() < 0.5:
                SnapshotStore(MemoryDisk({**image, name: data})).read()
            else:
                receiver, at = SnapshotStore(MemoryDisk()), 0
                while at < len(data):
                    size = chance.randrange(1, 200)
                    receiver.receive(data[at : at + size], first=at == 0, last=at + size >= len(data))
                    at += size
        except (Corrupt, StartRefused, OSError):
            return "refused"
        return "taken"

    return case


def sealed(data: bytes) -> bytes:
    """With a trailer that vouches for it, as from a member with a bug."""
    return data + _TRAILER.pack(_END, len(data), zlib.crc32(data))


def identities(chance: Random) -> Case:
    """Identity files."""
    config, disk = RaftConfig(me="a:1", members=("a:1", "b:1", "c:1")), MemoryDisk()
    Identity(config, disk, Random(1)).journal_made()
    (name, good) = next(iter(disk.image().items()))

    def case(chance: Random) -> str:
        try:
            body = mutated(chance, good[:-9], [good])
            data = body + b"\n%08x" % zlib.crc32(body) if chance.random() < 0.5 else mutated(chance, good, [good])
            found = Identity(config, MemoryDisk({name: data}), Random(3))
        except (Corrupt, StartRefused):
            return "refused"
        assert isinstance(found.id, str)
        return "taken"

    return case


def notes(chance: Random) -> Case:
    """What an agent finds of its former life."""
    directory = tempfile.TemporaryDirectory(prefix="kago-fuzz-")
    path = Path(directory.name)
    good = [msgspec.json.encode(shaped(chance, Notes)) for _ in range(50)] + [msgspec.json.encode(Notes(agent_id="a", masters=("m",)))]
    reader = object.__new__(Notebook)
    reader.data_dir = path

    def case(chance: Random, keep: object = directory) -> str:
        (path / FILE).write_bytes(mutated(chance, chance.choice(good), good))
        try:
            reader._read()
        except DataDirError:
            return "refused"
        return "taken"

    return case


def states(chance: Random) -> Case:
    """The state's own snapshot."""
    stage = peopled()
    index, good = stage.machine.tables.index, list(stage.machine.snapshot()())

    def case(chance: Random) -> str:
        chunks = list(good)
        at = chance.randrange(len(chunks))
        match chance.randrange(4):
            case 0:
                del chunks[at]
            case 1:
                chunks.insert(at, chance.choice(good))
            case _:
                chunks[at] = mutated(chance, chunks[at], good)
        try:
            read_snapshot(index, chunks)
        except ValueError:
            return "refused"
        return "taken"

    return case


def backups(chance: Random) -> Case:
    """What `kago snapshot save` wrote, and time has gnawed at, or somebody who knows how to make the checksum fit."""
    stage = peopled()
    tables, size = stage.machine.tables, 32
    header = backup.Header(
        cluster_id="c", index=tables.index, epoch=1, term=1, raft_index=9, schema=1, digest=stage.machine.digest, taken_at=1.0,
        taken_by="s1:7080", software_version="1", members=(),
    )
    good = b"".join(backup.encode(header, stage.machine.snapshot()()))

    def case(chance: Random) -> str:
        data = mutated(chance, good, [good])
        if chance.random() < 0.5:
            body = mutated(chance, good[:-size], [good])
            data = body + blake2b(body, digest_size=size).digest()
        try:
            backup.decode(data)
        except ValueError:
            return "refused"
        return "taken"

    return case
