"""A data directory made outside a replica: it starts as the only member of a log that goes on from the state it was given."""

from pathlib import Path
from random import Random

import pytest

from raft.contract import Disk
from raft.errors import StartRefused
from raft.founding import found, write_founder
from tests.unit.raft.cluster import Cluster, MemoryDisk
from tests.unit.raft.memory_disk import Died
from tests.unit.raft.memory_disk import MemoryDisk as FailingDisk

ME = "a:1"


def started(disk: Disk) -> Cluster:
    cluster = Cluster(members=(ME,))
    cluster.kill(ME)
    cluster.disks[ME] = disk  # type: ignore[assignment]
    cluster.start(ME)
    return cluster


def test_a_founded_member_leads_and_goes_on_from_the_state() -> None:
    disk = MemoryDisk()
    write_founder(disk, me=ME, applied=2, state=[b"x", b"y"], term=1_005, raft_index=400, random=Random(1))
    cluster = started(disk)
    assert cluster.leader() == ME
    assert cluster.write(ME, b"z").index == 3
    status = cluster.replicas[ME].status()
    assert status.term == 1_006
    assert status.raft_applied_index > 401
    assert cluster.machines[ME].entries == [b"x", b"y", b"z"]
    cluster.kill(ME)
    cluster.start(ME)
    cluster.until(lambda: cluster.machines[ME].entries == [b"x", b"y", b"z"])


def test_no_member_of_the_old_log_may_speak_to_the_new_one() -> None:
    old = Cluster()
    old.leader()
    disk = MemoryDisk()
    write_founder(disk, me="a:1", applied=2, state=[b"x", b"y"], term=1_005, raft_index=400, random=Random(1))
    old.kill("a:1")
    old.disks["a:1"] = disk
    old.start("a:1")
    old.until(lambda: old.replicas["a:1"].engine.is_leader)
    old.run(2.0)
    assert [peer for link in old.links if "a:1" in link for peer in link] == []
    assert old.replicas["a:1"].status().members == old.replicas["a:1"].status().members[:1]


def test_killed_anywhere_it_leaves_nothing_that_starts_with_less() -> None:
    refused = 0
    for life in range(0, 2_000, 3):
        disk = FailingDisk()
        disk.life = life
        try:
            write_founder(disk, me=ME, applied=1, state=[b"x"], term=5, raft_index=4, random=Random(1))
        except Died:
            if not disk.list():
                continue
            try:
                cluster = started(FailingDisk(disk.image()))
            except StartRefused:
                refused += 1
            else:
                cluster.leader()
                assert cluster.machines[ME].entries == [b"x"]
        else:
            disk.life = None
            cluster = started(disk)
            cluster.leader()
            assert cluster.machines[ME].entries == [b"x"]
            assert refused > 10
            return
    raise AssertionError("it never came to the end")


def test_only_an_empty_directory_is_taken(tmp_path: Path) -> None:
    (tmp_path / "journal").write_bytes(b"somebody's")
    with pytest.raises(StartRefused, match="not empty"):
        found(tmp_path, me=ME, applied=7, state=[b"x"], term=5, raft_index=4)
    assert (tmp_path / "journal").read_bytes() == b"somebody's"
