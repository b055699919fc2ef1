"""What a data directory must still hold when its server comes back, seen through a whole server."""

from itertools import count
from random import Random

import pytest

from raft.contract import RaftConfig
from raft.errors import Corrupt, StartRefused
from raft.replica import Replica
from tests.unit.raft.cluster import Cluster, FakeClock, ListMachine, MemoryWire
from tests.unit.raft.memory_disk import Died, MemoryDisk


def start(disk: MemoryDisk) -> Replica:
    """A server alone, led by itself."""
    clock = FakeClock()
    replica = Replica(
        RaftConfig(me="a:1", members=("a:1",)), ListMachine(), disk=disk, wire=MemoryWire(Cluster(members=()), "a:1"), clock=clock, random=Random(1)
    )
    replica.start()
    for _ in range(400):
        clock.now += 0.005
        replica.step()
    return replica


@pytest.mark.parametrize("stump", [None, b"", b"KAGO", bytes(8), bytes(4096)])
def test_a_server_that_lost_its_journal_does_not_begin_a_new_one(stump: bytes | None) -> None:
    disk = MemoryDisk()
    start(disk).shut()
    files = disk.image()
    del files["journal"]
    if stump is not None:
        files["journal"] = stump
    with pytest.raises(Corrupt, match="journal.*--rejoin"):
        start(MemoryDisk(files))


def test_a_journal_without_its_identity_is_refused() -> None:
    disk = MemoryDisk()
    start(disk).shut()
    disk.remove("identity")
    with pytest.raises(StartRefused, match="no identity file"):
        start(disk)


def test_death_during_the_first_start_is_no_lost_journal() -> None:
    for life in count():
        disk = MemoryDisk()
        disk.life = life
        try:
            Replica(
                RaftConfig(me="a:1", members=("a:1",)),
                ListMachine(),
                disk=disk,
                wire=MemoryWire(Cluster(members=()), "a:1"),
                clock=FakeClock(),
                random=Random(1),
            )
            finished = True
        except Died:
            finished = False
        disk.life = None
        for image in (disk.image(), *disk.after_power_loss(stride=97)):
            assert start(MemoryDisk(image)).engine.is_leader
        if finished:
            break
