"""A stopped member's directory, read for what it holds and left as it is; and begun again in its place."""

from pathlib import Path

import pytest

from raft.disk import FileDisk
from raft.errors import Corrupt, LogError, StartRefused
from raft.founding import found, found_again
from raft.remains import examine, read_remains
from tests.unit.raft.cluster import Cluster, ListMachine, MemoryDisk


def lost(writes: int, **settings: object) -> Cluster:
    """Three members that acknowledged so many writes, and are all dead."""
    cluster = Cluster(**settings)  # type: ignore[arg-type]
    leader = cluster.leader()
    for n in range(writes):
        cluster.write(leader, b"%d" % n)
    cluster.run(0.5)
    for member in sorted(cluster.replicas):
        cluster.kill(member)
    return cluster


def contents(disk: MemoryDisk) -> dict[str, bytes]:
    return {name: disk.read(name) for name in disk.list()}


@pytest.mark.parametrize("settings", [{}, {"snapshot_every_entries": 7}], ids=["journal", "snapshot"])
def test_it_holds_what_was_acknowledged_and_is_not_touched(settings: dict[str, object]) -> None:
    cluster = lost(30, **settings)
    for member, disk in cluster.disks.items():
        before, machine = contents(disk), ListMachine()
        assert ("snapshot_every_entries" in settings) == any(name.startswith("snapshot-") for name in before)
        remains = read_remains(disk, machine)
        assert machine.entries == [b"%d" % n for n in range(30)]
        assert (remains.id, remains.address, remains.applied) == (member, member, 30)
        assert [seat.id for seat in remains.seats] == ["a:1", "b:1", "c:1"]
        assert contents(disk) == before


def test_the_one_with_the_longer_log_of_the_later_term_is_the_best() -> None:
    cluster = Cluster()
    leader = cluster.leader()
    cluster.write(leader, b"both")
    follower = cluster.followers()[0]
    cluster.kill(follower)
    cluster.write(leader, b"not the dead one")
    for member in sorted(cluster.replicas):
        cluster.kill(member)
    ranks = {member: read_remains(disk, ListMachine()).rank for member, disk in cluster.disks.items()}
    assert min(ranks, key=lambda member: ranks[member]) == follower
    assert len(set(ranks.values())) == 2


def test_a_damaged_one_is_named_and_a_torn_tail_is_not_in_the_way() -> None:
    cluster = lost(5)
    disk = cluster.disks["a:1"]
    whole = disk.read("journal")
    disk.files["journal"] = bytearray(whole + b"torn")
    assert read_remains(disk, ListMachine()).applied == 5
    disk.files["journal"] = bytearray(whole[:60] + bytes([whole[60] ^ 1]) + whole[61:])
    with pytest.raises(Corrupt):
        read_remains(disk, ListMachine())


def test_begun_again_in_its_place_with_the_old_files_kept(tmp_path: Path) -> None:
    found(tmp_path, me="a:1", applied=1, state=[b"x"], term=5, raft_index=4)
    (tmp_path / "keys").mkdir()
    old = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file() and path.name != "lock"}
    machine = ListMachine()
    remains = examine(tmp_path, machine)
    assert (remains.term, remains.applied, remains.last_index, machine.entries) == (5, 1, 5, [b"x"])
    again = {"me": remains.address, "applied": 2, "term": 1005, "raft_index": 6}
    kept = found_again(tmp_path, state=[b"x", b"y"], **again)  # type: ignore[arg-type]
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == old
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["before-recovery-1", "keys"]
    machine = ListMachine()
    now = examine(tmp_path, machine)
    assert (now.term, now.applied, machine.entries) == (1005, 2, [b"x", b"y"])
    assert now.cluster != remains.cluster
    assert found_again(tmp_path, state=[b"x", b"y"], **again).name == "before-recovery-2"  # type: ignore[arg-type]


def test_one_in_use_and_what_is_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StartRefused, match="is not a server's data directory"):
        examine(tmp_path, ListMachine())
    assert list(tmp_path.iterdir()) == []
    found(tmp_path, me="a:1", applied=1, state=[b"x"], term=5, raft_index=4)
    disk = FileDisk(tmp_path)
    with pytest.raises(LogError, match="another process uses"):
        examine(tmp_path, ListMachine())
    disk.close()
