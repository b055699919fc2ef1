"""Ways between members when a path fails as a whole or in one direction."""

import pytest

from tests.unit.raft.cluster import Cluster

NOTICED_S = 1.5
"""What is not heard for a second is said at the next look, and gone round."""


def test_a_follower_cut_off_from_the_leader_alone_goes_on_serving_over_the_third() -> None:
    cluster = Cluster()
    leader = cluster.leader()
    follower = cluster.followers()[0]
    term = cluster.replicas[leader].engine.term
    cluster.cut(leader, follower)
    cluster.run(2.0)
    reply = cluster.write(follower, b"x")
    read = cluster.read(follower)
    cluster.until(lambda: bool(read.told))
    assert read.told == [reply.index]
    assert cluster.leader() == leader and cluster.replicas[leader].engine.term == term


@pytest.mark.parametrize("away_from_the_leader", [True, False])
def test_a_path_that_fails_in_one_direction_is_gone_round_though_its_connection_stands(away_from_the_leader: bool) -> None:
    cluster = Cluster()
    leader, (follower, third) = cluster.leader(), cluster.followers()
    term = cluster.replicas[leader].engine.term
    cluster.mute.add((leader, follower) if away_from_the_leader else (follower, leader))
    cluster.run(NOTICED_S)
    began = cluster.clock.now
    for member in (follower, leader, third):
        index = cluster.write(member, member.encode()).index
        read = cluster.read(follower)
        cluster.until(lambda told=read.told: bool(told))  # type: ignore[misc]
        assert read.told == [index]
    assert cluster.clock.now - began < 0.5
    assert cluster.replicas[follower].status().heard_by_leader and cluster.leader() == leader
    assert cluster.replicas[leader].engine.term == term, "nobody was unseated for it"


def test_a_leader_that_is_not_heard_gets_no_answers_though_it_hears() -> None:
    cluster = Cluster()
    leader, (follower, third) = cluster.leader(), cluster.followers()
    cluster.mute |= {(leader, follower), (leader, third)}
    cluster.run(0.9)
    members = {member.id: member for member in cluster.replicas[leader].status().members}
    for peer in (follower, third):
        heard_s, answered_s = members[peer].contact_age_s, members[peer].answer_age_s
        assert heard_s is not None and answered_s is not None and heard_s < 0.9 <= answered_s + 0.1


def test_a_way_round_is_left_once_the_path_carries_again() -> None:
    cluster = Cluster()
    leader, (follower, third) = cluster.leader(), cluster.followers()
    cluster.mute.add((follower, leader))
    cluster.run(NOTICED_S)
    cluster.mute.clear()
    cluster.run(NOTICED_S)
    for wire in cluster.wires.values():
        wire.sent.clear()
    cluster.write(follower, b"x")
    assert [peer for peer, _ in cluster.wires[follower].sent if peer == leader]
    assert not [peer for peer, _ in cluster.wires[third].sent if peer != leader], "the third member passes nothing on"


def test_a_follower_knows_that_the_leader_does_not_hear_it_and_takes_nothing_for_it() -> None:
    cluster = Cluster()
    leader, (follower, third) = cluster.leader(), cluster.followers()
    heard: list[bytes] = []
    cluster.replicas[leader].on_message = lambda sender, payload: heard.append(payload)
    cluster.cut(follower, third)
    cluster.mute.add((follower, leader))
    cluster.run(NOTICED_S)
    status = cluster.replicas[follower].status()
    assert status.leader == leader and status.leader_contact_age_s is not None and status.leader_contact_age_s < 0.2
    assert not status.heard_by_leader and not cluster.replicas[follower].tell_leader(b"lost")
    cluster.mute.clear()
    cluster.run(NOTICED_S)
    assert cluster.replicas[follower].status().heard_by_leader and cluster.replicas[follower].tell_leader(b"told")
    cluster.run(0.1)
    assert heard == [b"told"]


def test_a_member_that_stood_still_does_not_call_the_others_silent() -> None:
    cluster = Cluster()
    leader, (follower, _) = cluster.leader(), cluster.followers()
    paused = cluster.replicas.pop(follower)
    cluster.run(0.9)
    cluster.replicas[follower] = paused
    cluster.clock.now += 0.3
    paused.step()
    assert leader in paused.router._hears(cluster.clock.now)
