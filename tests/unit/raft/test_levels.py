"""Members of different releases: whoever does not understand what the others use by now is turned away, and stops with a text."""

from raft.errors import StartRefused
from tests.unit.raft.cluster import MEMBERS, Cluster


def test_levels_side_by_side_until_more_is_required() -> None:
    cluster = Cluster(level=2)
    leader = cluster.leader()
    old = cluster.followers()[0]
    cluster.kill(old)
    cluster.settings = {"level": 1}
    cluster.start(old)
    cluster.write(leader, b"both understand this")
    cluster.until(lambda: cluster.machines[old].entries == [b"both understand this"])
    cluster.kill(old)
    for member in cluster.replicas:
        cluster.replicas[member].require_level(2)
    cluster.start(old)
    cluster.until(lambda: old in cluster.fatal)
    assert isinstance(cluster.fatal[old], StartRefused)
    assert "start it with the version that they run" in str(cluster.fatal[old])
    cluster.kill(old)
    cluster.settings = {"level": 3}
    cluster.start(old)
    cluster.write(cluster.leader(), b"on")
    cluster.until(lambda: all(cluster.machines[member].entries[-1:] == [b"on"] for member in MEMBERS))
