"""When a leader is taken for dead: who is late, who was late before, and whom an election would only keep busier."""

import pytest

from .cluster import Cluster


def test_an_election_is_not_started_by_ones_own_stall() -> None:
    cluster = Cluster()
    leader = cluster.leader()
    follower = cluster.followers()[0]
    sleeper = cluster.replicas.pop(follower)
    cluster.run(3.0)
    cluster.replicas[follower] = sleeper
    term = cluster.replicas[leader].engine.term
    cluster.run(1.0)
    assert cluster.leader() == leader and cluster.replicas[leader].engine.term == term


def test_a_leader_whose_last_words_were_not_heard_yet_when_it_died_is_replaced_as_fast() -> None:
    cluster = Cluster()
    leader, followers = cluster.leader(), cluster.followers()
    cluster.run(1.0)
    term, engine = cluster.replicas[leader].engine.term, cluster.replicas[leader].engine
    cluster.propose(leader, b"x")
    cluster.replicas[leader].step()
    for source, target, frame in cluster.in_flight:
        if source == leader:
            cluster.replicas[target].received(source, frame)
    cluster.kill(leader)
    assert cluster.until(lambda: cluster.replicas[followers[0]].engine.term > term) < 0.15
    assert all(cluster.replicas[follower].engine.last_index >= engine.last_index for follower in followers)


def test_a_leader_that_one_follower_heard_over_the_other_is_replaced_as_fast() -> None:
    cluster = Cluster()
    leader, (direct, relayed) = cluster.leader(), cluster.followers()
    cluster.cut(leader, relayed)
    cluster.run(2.0)
    term = cluster.replicas[direct].engine.term
    assert cluster.leader() == leader and cluster.replicas[relayed].guard.leader_is_fresh()
    cluster.kill(leader)
    assert cluster.until(lambda: cluster.replicas[direct].engine.is_leader) < 0.2
    assert cluster.replicas[direct].engine.term > term


def test_who_is_late_itself_is_patient_with_the_leader_for_a_while() -> None:
    cluster = Cluster()
    follower = cluster.replicas[cluster.followers()[0]]
    prevotes, now = follower.prevotes, cluster.clock.now
    assert prevotes.patience_s(now) == 0.0
    prevotes.was_late(0.04, now)
    assert prevotes.patience_s(now) == 0.0, "nobody is ever quite on time"
    prevotes.was_late(0.35, now)
    assert prevotes.patience_s(now) == pytest.approx(0.6)
    prevotes.was_late(0.1, now + 1)
    assert 0.5 < prevotes.patience_s(now + 1) < 0.6, "the worst of late counts"
    assert prevotes.patience_s(now + 60) < 0.02
    prevotes.was_late(100.0, now)
    assert prevotes.patience_s(now) == 2.0


def test_a_leader_that_was_late_and_came_back_may_be_late_again() -> None:
    cluster = Cluster()
    leader, followers = cluster.leader(), cluster.followers()
    term = cluster.replicas[leader].engine.term
    cluster.run(1.0)
    assert all(cluster.replicas[follower].prevotes.patience_s(cluster.clock.now) == 0.0 for follower in followers)
    for silent_s in (0.22, 0.39, 0.7):  # without the ones before each of them would be too long
        busy = cluster.replicas.pop(leader)
        cluster.run(silent_s)
        cluster.replicas[leader] = busy
        cluster.run(1.0)
        assert cluster.leader() == leader and busy.engine.term == term
    assert all(0.45 < cluster.replicas[follower].prevotes.patience_s(cluster.clock.now) <= 0.5 for follower in followers)
    cluster.run(300.0)
    assert all(cluster.replicas[follower].prevotes.patience_s(cluster.clock.now) < 0.02 for follower in followers)
    cluster.replicas.pop(leader)
    assert cluster.until(lambda: cluster.replicas[followers[0]].engine.term > term) < 0.5


def test_a_late_leader_is_not_learnt_of_by_who_was_late_itself_nor_from_what_another_leader_said() -> None:
    cluster = Cluster()
    leader = cluster.leader()
    sleeper = cluster.replicas.pop(late := cluster.followers()[0])
    cluster.run(1.0)
    cluster.replicas[late] = sleeper
    cluster.run(0.05)
    assert sleeper.prevotes._leaders.at(cluster.clock.now) < 0.1
    cluster.run(20.0)
    cluster.replicas.pop(leader)
    cluster.until(lambda: sleeper.engine.leader not in (None, leader))
    cluster.run(0.5)
    assert sleeper.prevotes._leaders.at(cluster.clock.now) < 0.1
