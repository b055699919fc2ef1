"""What leaves a member before its journal is synced, and what does not."""

from raft.contract import Role
from raft.errors import LogHalted
from raft.messages import Ack, AppendEntries, decode
from raft.pipeline import NEWS_WAITS_S
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


def test_a_leader_gives_signs_of_life_in_the_midst_of_a_sync_and_says_nothing_else() -> None:
    cluster = settled()
    leader, (follower, _) = cluster.leader(), cluster.followers()
    cluster.propose(leader, b"x")
    replica = cluster.replicas[leader]
    replica.work()
    assert replica.dirty and left(cluster, leader) and left(cluster, follower)
    due, now = replica.engine.heartbeat_due, cluster.clock.monotonic()
    assert replica.outbox.beat(now) == due and left(cluster, leader) == set()
    assert replica.outbox.beat(due) > now and left(cluster, leader) == {AppendEntries}
    assert cluster.replicas[follower].outbox.beat(due) == float("inf") and left(cluster, follower) == set()


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


def acknowledged(cluster: Cluster, entry: bytes) -> None:
    """`entry` goes into the leader's log and onto all disks, and the leader has heard of that."""
    leader = cluster.leader()
    cluster.propose(leader, entry)
    for members in ([leader], cluster.followers()):
        for member in members:
            cluster.replicas[member].step()
        deliver(cluster)


def test_a_commit_index_alone_waits_a_moment_for_entries_that_it_can_go_with() -> None:
    cluster = settled()
    leader, followers = cluster.leader(), cluster.followers()
    replica = cluster.replicas[leader]
    acknowledged(cluster, b"x")
    left(cluster, leader)
    replica.step()
    assert cluster.machines[leader].entries == [b"x"] and not left(cluster, leader)
    assert cluster.clock.now < replica.deadline() <= cluster.clock.now + NEWS_WAITS_S
    cluster.clock.now += NEWS_WAITS_S
    replica.step()
    assert left(cluster, leader) == {AppendEntries}
    deliver(cluster)
    for follower in followers:
        left(cluster, follower)
        cluster.replicas[follower].step()
        assert cluster.machines[follower].entries == [b"x"] and not left(cluster, follower)
    assert replica.deadline() > cluster.clock.now + NEWS_WAITS_S


def test_followers_with_nothing_new_to_say_answer_every_other_heartbeat() -> None:
    cluster = settled()
    leader, followers = cluster.leader(), cluster.followers()
    for member in cluster.members:
        cluster.wires[member].sent.clear()
    cluster.run(2.0)
    asked = {member: [type(decode(frame)) for _, frame in cluster.wires[member].sent] for member in cluster.members}
    beats = asked[leader].count(AppendEntries) // 2
    assert beats >= 20
    for follower in followers:
        assert abs(2 * asked[follower].count(Ack) - beats) <= 2
    assert cluster.replicas[leader].status().role is Role.LEADER


def test_a_read_is_answered_at_once_whether_or_not_the_next_heartbeat_wanted_an_answer() -> None:
    cluster = settled()
    leader = cluster.leader()
    for heartbeats in (0, 1, 2, 3):
        for _ in range(heartbeats):
            cluster.run(cluster.replicas[leader].engine.heartbeat_due - cluster.clock.now + 0.01)
        told = cluster.read(leader).told
        cluster.run(0.02)
        assert len(told) == 1 and isinstance(told[0], int)


def test_who_waits_for_what_it_proposed_hears_at_once_that_it_is_committed_and_nobody_else() -> None:
    cluster = settled()
    leader, (asker, _) = cluster.leader(), cluster.followers()
    outcome = cluster.propose(asker, b"x")
    for members in ([asker], [leader], cluster.followers()):
        for member in members:
            cluster.replicas[member].step()
        deliver(cluster)
    cluster.wires[leader].sent.clear()
    cluster.replicas[leader].step()
    assert [peer for peer, _ in cluster.wires[leader].sent] == [asker]
    deliver(cluster)
    cluster.replicas[asker].step()
    assert outcome.reply.result == b"r:x"


def test_a_follower_makes_entries_durable_and_says_so_before_it_applies_earlier_ones_but_it_does_apply_them() -> None:
    cluster = settled()
    leader, (follower, _) = cluster.leader(), cluster.followers()
    behind, machine = cluster.replicas[follower], cluster.machines[follower]
    acknowledged(cluster, b"x")
    for applied, entry in (([], b"y"), ([b"x"], b"z")):
        cluster.propose(leader, entry)
        cluster.replicas[leader].step()
        deliver(cluster)
        left(cluster, follower)
        behind.step()
        assert left(cluster, follower) == {Ack} and machine.entries == applied
        assert behind.engine.unapplied == 0 or behind.deadline() <= cluster.clock.now
