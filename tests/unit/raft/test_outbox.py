"""What leaves a member before its journal is synced, and what does not."""

from raft.errors import LogHalted
from raft.messages import Ack, AppendEntries, decode
from tests.unit.raft.cluster import Cluster


def settled() -> Cluster:
    cluster = Cluster()
    cluster.leader()
    cluster.run(0.2)
    cluster.in_flight.clear()
    return cluster


def left(cluster: Cluster, member: str) -> set[type]:
    """Kinds of the frames that have left it since this was asked last."""
    wire = cluster.wires[member]
    sent, wire.sent = wire.sent, []
    return {type(decode(frame)) for _, frame in sent}


def deliver(cluster: Cluster) -> None:
    while cluster.in_flight:
        source, target, frame = cluster.in_flight.popleft()
        cluster.replicas[target].received(source, frame)


def test_only_a_leaders_entries_leave_before_the_sync() -> None:
    cluster = settled()
    leader, (follower, _) = cluster.leader(), cluster.followers()
    cluster.propose(leader, b"x")
    for member, early, late in ((leader, {AppendEntries}, set()), (follower, set(), {Ack})):
        replica = cluster.replicas[member]
        left(cluster, member)
        replica.work()
        assert replica.dirty and left(cluster, member) == early
        replica.sync()
        replica.flush()
        assert left(cluster, member) == late
        deliver(cluster)


def test_what_a_leader_sent_and_could_not_write_itself_is_acknowledged_by_nobody_and_done_by_the_others() -> None:
    cluster = settled()
    leader, followers = cluster.leader(), cluster.followers()
    outcome = cluster.propose(leader, b"x")
    cluster.replicas[leader].work()
    deliver(cluster)
    cluster.disks[leader].fails = True
    cluster.replicas[leader].sync_or_halt()
    assert leader in cluster.fatal and isinstance(outcome.told[0], LogHalted)
    cluster.kill(leader)
    cluster.until(lambda: all(cluster.machines[follower].entries == [b"x"] for follower in followers))


def test_no_entries_leave_early_in_a_term_that_is_not_durable() -> None:
    cluster = settled()
    leader = cluster.leader()
    replica = cluster.replicas[leader]
    replica.outbox._durable_term -= 1
    cluster.propose(leader, b"x")
    left(cluster, leader)
    replica.work()
    assert replica.dirty and not left(cluster, leader)
    replica.sync()
    replica.flush()
    assert left(cluster, leader) == {AppendEntries}
