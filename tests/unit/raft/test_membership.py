"""Members come, go and move while the log goes on: what is in force when, who counts, and what is refused with which words."""

import pytest

from raft.configuration import first_configuration
from raft.contract import ChangeKind, Role
from raft.errors import ChangeRefused, LogError, OutcomeUnknown, StartRefused

from .cluster import MEMBERS, Cluster

ADD, REMOVE, LEAD = ChangeKind.ADD, ChangeKind.REMOVE, ChangeKind.LEAD


def same_state(cluster: Cluster) -> bool:
    return len({tuple(cluster.machines[name].entries) for name in cluster.replicas}) == 1


def refusal(outcome: object) -> ChangeRefused:
    assert isinstance(outcome, ChangeRefused), outcome
    return outcome


def test_a_new_member_is_a_learner_until_it_has_caught_up_and_votes_by_itself_then() -> None:
    cluster = Cluster()
    for i in range(30):
        cluster.write("a:1", b"%d" % i)
    assert cluster.changed("b:1", ADD, "d:1") == "d:1"
    leader = cluster.leader()
    assert cluster.replicas[leader].membership.latest.seat("d:1") is not None
    cluster.run(1.0)
    assert cluster.replicas[leader].membership.voters == set(MEMBERS), "it does not even run"
    cluster.start("d:1", invitation=cluster.invitation("d:1", "a:1"))
    assert cluster.replicas["d:1"].status().role is Role.LEARNER
    cluster.until(lambda: cluster.replicas["d:1"].status().role is Role.FOLLOWER)
    assert cluster.replicas[leader].membership.voters == {*MEMBERS, "d:1"}
    assert cluster.write("d:1", b"through the new one").index == 31
    cluster.run(0.3)
    assert same_state(cluster)


def test_a_learner_counts_in_nothing() -> None:
    cluster = Cluster()
    cluster.changed("a:1", ADD, "d:1")
    leader = cluster.leader()
    cluster.start("d:1", invitation=cluster.invitation("d:1", leader))
    cluster.replicas[leader].changes._has_caught_up = lambda id: False  # type: ignore[method-assign]
    cluster.run(1.0)
    for follower in [member for member in MEMBERS if member != leader]:
        cluster.kill(follower)
    taken = cluster.propose(leader, b"x", timeout_s=1.0)
    cluster.run(1.5)
    assert isinstance(taken.told[0], OutcomeUnknown), "a leader and a learner are no majority of three"
    cluster.run(2.0)
    assert not cluster.replicas[leader].engine.is_leader and not cluster.replicas["d:1"].engine.is_leader


def test_one_server_grows_to_three_and_survives_the_first() -> None:
    cluster = Cluster(members=("a:1",))
    cluster.write("a:1", b"x")
    cluster.grow("b:1", at="a:1")
    cluster.grow("c:1", at="b:1")
    cluster.write("b:1", b"y")
    cluster.kill("a:1")
    assert cluster.write("c:1", b"z").index == 3


@pytest.mark.parametrize("compacting", [False, True])
def test_every_member_replaced_one_by_one(compacting: bool) -> None:
    cluster = Cluster(snapshot_every_entries=10 if compacting else 50_000)
    written = 0
    for old, new in zip(MEMBERS, ("d:1", "e:1", "f:1"), strict=True):
        at = next(name for name in sorted(cluster.replicas) if name != old)
        for _ in range(15):
            written += 1
            cluster.write(at, b"%d" % written)
        cluster.grow(new, at=at)
        assert cluster.changed(at, REMOVE, old, timeout_s=8.0) == old
        cluster.until(lambda old=old: old in cluster.fatal)  # type: ignore[misc]
        cluster.kill(old)
    assert sorted(cluster.replicas) == ["d:1", "e:1", "f:1"]
    assert cluster.write("e:1", b"last").index == written + 1
    cluster.run(0.3)
    assert same_state(cluster)
    for name in list(cluster.replicas):
        cluster.kill(name)
    for name in ("d:1", "e:1", "f:1"):
        cluster.start(name)
    assert cluster.write("d:1", b"after the restart of all").index == written + 2
    assert cluster.replicas["e:1"].membership.latest.removed == MEMBERS


def test_a_removed_member_is_told_stops_and_does_not_start_again() -> None:
    cluster = Cluster()
    leader = cluster.leader()
    gone = cluster.followers()[0]
    assert cluster.changed(leader, REMOVE, gone) == gone
    assert cluster.changed(leader, REMOVE, gone) == gone, "asked again it is done already"
    cluster.until(lambda: gone in cluster.fatal)
    assert isinstance(cluster.fatal[gone], StartRefused) and "removed from the cluster" in str(cluster.fatal[gone])
    cluster.kill(gone)
    with pytest.raises(StartRefused, match="removed from the cluster"):
        cluster.start(gone)
    assert cluster.write(leader, b"x").index == 1


def test_one_that_was_away_when_it_was_removed_is_told_when_it_is_back() -> None:
    cluster = Cluster()
    gone = cluster.followers()[0]
    cluster.kill(gone)
    cluster.changed(cluster.leader(), REMOVE, gone)
    cluster.start(gone)
    cluster.until(lambda: gone in cluster.fatal)
    assert "removed from the cluster" in str(cluster.fatal[gone])


def test_a_machine_used_again_gets_another_id() -> None:
    cluster = Cluster()
    leader, gone = cluster.leader(), cluster.followers()[0]
    cluster.changed(leader, REMOVE, gone)
    cluster.until(lambda: gone in cluster.fatal)
    cluster.kill(gone)
    assert cluster.grow(gone, at=leader) == f"{gone}#2"
    assert cluster.write(f"{gone}#2", b"x").index == 1


def test_the_leader_removed_hands_over_first() -> None:
    cluster = Cluster()
    leader = cluster.leader()
    cluster.write(leader, b"x")
    assert cluster.changed(leader, REMOVE, leader, timeout_s=8.0) == leader
    cluster.until(lambda: leader in cluster.fatal)
    cluster.kill(leader)
    assert cluster.leader() != leader
    assert cluster.write(cluster.leader(), b"y").index == 2


def test_leadership_goes_where_it_is_asked_to() -> None:
    cluster = Cluster()
    for target in (*MEMBERS, *reversed(MEMBERS)):
        assert cluster.changed("b:1", LEAD, target) == target
        assert cluster.leader() == target
    other = cluster.changed("c:1", LEAD)
    assert other == cluster.leader() != "a:1"


def test_what_would_leave_no_live_majority_is_refused_with_the_reason() -> None:
    cluster = Cluster()
    leader = cluster.leader()
    dead, alive = cluster.followers()
    cluster.kill(dead)
    cluster.run(1.5)
    refused = refusal(cluster.changed(leader, REMOVE, alive))
    assert refused.reason == "no-majority"
    assert str(refused).startswith(f"after removing {alive} 2 of 2 servers would have to be up, and {dead} is not reachable")
    assert cluster.changed(leader, REMOVE, dead) == dead
    assert cluster.write(leader, b"x").index == 1


def test_refusals() -> None:
    cluster = Cluster()
    assert refusal(cluster.changed("a:1", REMOVE, "z:1")).reason == "not-found"
    assert "a:1, b:1, c:1" in str(refusal(cluster.changed("a:1", LEAD, "z:1")))
    cluster.changed("a:1", ADD, "d:1")
    assert "learner" in str(refusal(cluster.changed("a:1", LEAD, "d:1")))
    assert cluster.changed("a:1", ADD, "d:1") == "d:1", "asked again it is there already"
    single = Cluster(members=("a:1",))
    assert "only server that votes" in str(refusal(single.changed("a:1", REMOVE, "a:1")))
    assert "no other server" in str(refusal(single.changed("a:1", LEAD)))


def test_without_a_majority_a_change_ends_unknown_and_comes_to_nothing() -> None:
    cluster = Cluster()
    leader = cluster.leader()
    cluster.run(0.3)
    others = cluster.followers()
    for other in others:
        cluster.cut(leader, other, seen=False)
    outcome = cluster.change(leader, ADD, "d:1", timeout_s=2.0)
    cluster.run(0.2)
    assert cluster.replicas[leader].membership.latest.seat("d:1") is not None, "in force from when it is appended"
    cluster.run(3.0)
    assert isinstance(outcome.told[0], LogError)
    for i in range(5):
        cluster.write(others[0], b"%d" % i)
    cluster.heal()
    cluster.run(1.0)
    assert cluster.replicas[leader].membership.latest == first_configuration(MEMBERS), "taken back with its entry"
    assert cluster.replicas[leader].membership.voters == set(MEMBERS)


def test_a_member_moves_and_the_others_find_it() -> None:
    cluster = Cluster()
    cluster.write("a:1", b"x")
    moved = cluster.followers()[0]
    cluster.kill(moved)
    cluster.start(moved, address="new:9")
    cluster.until(lambda: all(r.membership.latest.at_address("new:9") is not None for r in cluster.replicas.values()))
    assert cluster.write(moved, b"y").index == 2
    assert {member.id: member.address for member in cluster.replicas["a:1"].status().members}[moved] == "new:9"
    for name in sorted(cluster.replicas):
        cluster.kill(name)
    for name in MEMBERS:
        cluster.start(name, address="new:9" if name == moved else "")
    assert cluster.write("a:1", b"z").index == 3


def test_a_leader_moves() -> None:
    cluster = Cluster()
    leader = cluster.leader()
    cluster.kill(leader)
    cluster.start(leader, address="new:9")
    cluster.until(lambda: cluster.replicas[cluster.leader()].membership.latest.at_address("new:9") is not None)
    cluster.changed(leader, LEAD, leader)
    assert cluster.write(cluster.followers()[0], b"x").index == 1


def test_a_data_directory_is_not_started_at_the_address_of_another() -> None:
    cluster = Cluster()
    cluster.kill("a:1")
    with pytest.raises(StartRefused, match="belongs to server a:1, and b:1 is the address of server b:1"):
        cluster.start("a:1", address="b:1")


def test_a_member_away_while_all_others_were_replaced_is_found_by_them() -> None:
    cluster = Cluster()
    away = cluster.followers()[0]
    at = cluster.leader()
    cluster.grow("d:1", at=at)
    cluster.grow("e:1", at=at)
    cluster.kill(away)
    for old in [name for name in MEMBERS if name != away]:
        cluster.changed("d:1", REMOVE, old, timeout_s=8.0)
        cluster.until(lambda old=old: old in cluster.fatal)  # type: ignore[misc]
        cluster.kill(old)
    cluster.write("d:1", b"x")
    cluster.start(away)
    cluster.until(lambda: len(cluster.machines[away].entries) == 1)
    assert cluster.replicas[away].membership.voters == {away, "d:1", "e:1"}


@pytest.mark.parametrize("id", ["d:1", "d:1#2"])
def test_one_that_moved_while_a_leader_came_that_it_never_met_hears_it_over_those_it_knows(id: str) -> None:
    cluster = Cluster()
    away = cluster.followers()[0]
    at = cluster.leader()
    if id != "d:1":  # a machine used again
        cluster.grow("d:1", at=at)
        cluster.changed(at, REMOVE, "d:1")
        cluster.until(lambda: "d:1" in cluster.fatal)
        cluster.kill("d:1")
        del cluster.disks["d:1"]
    cluster.kill(away)
    assert cluster.grow("d:1", at=at) == id
    cluster.changed(at, LEAD, id)
    cluster.write(id, b"x")
    cluster.start(away, address="new:9")
    cluster.until(lambda: len(cluster.machines[away].entries) == 1)
    cluster.until(lambda: all(r.membership.latest.at_address("new:9") is not None for r in cluster.replicas.values()))
    assert cluster.leader() == id and cluster.write(away, b"y").index == 2


def test_one_that_came_back_empty_after_it_was_added_counts_again() -> None:
    cluster = Cluster()
    cluster.grow("d:1", at="a:1")
    cluster.write("a:1", b"x")
    cluster.kill("d:1")
    del cluster.disks["d:1"]
    cluster.start("d:1", rejoin=True, invitation=cluster.invitation("d:1", "a:1"))
    assert cluster.replicas["d:1"].status().role is Role.LEARNER
    cluster.until(lambda: cluster.replicas["d:1"].status().role is Role.FOLLOWER)
    assert cluster.write("d:1", b"y").index == 2
