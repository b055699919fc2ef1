"""What a data directory must still hold when its server comes back, seen through a whole server."""

import zlib
from itertools import count
from random import Random

import msgspec
import pytest

from raft.contract import RaftConfig
from raft.errors import Corrupt, StartRefused
from raft.identity import Identity
from raft.replica import Replica
from tests.unit.raft.cluster import Cluster, FakeClock, ListMachine, MemoryWire
from tests.unit.raft.memory_disk import Died, MemoryDisk


def construct(disk: MemoryDisk) -> Replica:
    """A server alone."""
    config, wire = RaftConfig(me="a:1", members=("a:1",)), MemoryWire(Cluster(members=()), "a:1")
    return Replica(config, ListMachine(), disk=disk, wire=wire, clock=FakeClock(), random=Random(1))


def used() -> MemoryDisk:
    """The data directory of a server that ran and was closed."""
    disk = MemoryDisk()
    replica = construct(disk)
    replica.start()
    replica.shut()
    return disk


@pytest.mark.parametrize("stump", [None, b"", b"KAGO", bytes(8), bytes(4096)])
def test_a_server_that_lost_its_journal_does_not_begin_a_new_one(stump: bytes | None) -> None:
    files = used().image()
    del files["journal"]
    if stump is not None:
        files["journal"] = stump
    with pytest.raises(Corrupt, match=r"journal.*--rejoin"):
        construct(MemoryDisk(files))


def test_a_journal_without_its_identity_is_refused() -> None:
    disk = used()
    disk.remove("identity")
    with pytest.raises(StartRefused, match="no identity file"):
        construct(disk)


def test_death_during_the_first_start_is_no_lost_journal() -> None:
    for life in count(step=19):
        disk = MemoryDisk()
        disk.life = life
        try:
            construct(disk)
            finished = True
        except Died:
            finished = False
        disk.life = None
        for image in (disk.image(), *disk.after_power_loss(stride=150)):
            assert len(construct(MemoryDisk(image)).journal) == 1
        if finished:
            break


OLD = (
    b'{"format":1,"me":"a:1","members":["a:1","b:1","c:1"],"max_replies":20000,"incarnation":"00112233445566778899aabbccddeeff",'
    b'"rejoined":false,"learner":false,"has_journal":true,"peers":{"b:1":"bb"},"retired":{}}'
)
"""As the first release wrote it."""


def test_what_the_first_release_wrote_is_read_and_written_alike() -> None:
    disk, config = MemoryDisk({"identity": OLD + b"\n%08x" % zlib.crc32(OLD)}), RaftConfig(me="a:1", members=("a:1", "b:1", "c:1"))
    identity = Identity(config, disk, Random(1))
    identity.journal_made()
    identity.moved("b:1", "elsewhere:1")
    assert b'"format":2' in disk.read("identity")
    identity.moved("b:1", None)
    assert disk.read("identity").rpartition(b"\n")[0] == OLD
    hello = msgspec.msgpack.decode(identity.hello("b:1"))
    assert hello[1:4] == ["a:1", "b:1", identity.cluster] and len(hello) == 7, "and so is the hello of one that never moved"


def test_a_hello_tells_where_one_has_moved() -> None:
    config = RaftConfig(me="a:1", members=("a:1", "b:1"))
    a, b = Identity(config, MemoryDisk(), Random(1)), Identity(RaftConfig(me="b:1", members=config.members), MemoryDisk(), Random(2))
    assert b.check(a.hello("b:1")).address == "a:1"
    a.move("elsewhere:9")
    assert b.check(a.hello("b:1"))[:2] == ("a:1", "elsewhere:9")
    for rubbish in ("nowhere", "a b:1", "x" * 300 + ":1", "a:99999"):
        a.move(rubbish)
        with pytest.raises(ValueError, match=r"is not host:port|not a hello"):
            b.check(a.hello("b:1"))
