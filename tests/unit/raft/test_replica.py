"""One replica and its two peers, step by step, on fakes: what is promised, and what each failure leads to."""

import asyncio
import errno

import pytest

from raft.contract import RaftConfig, Role
from raft.errors import LogHalted, NoLeader, OutcomeUnknown, QueueFull, StartRefused, TooLarge
from raft.memory import MemoryLog

from .cluster import MEMBERS, Cluster, FakeClock, ListMachine, MemoryDisk


def test_a_write_through_any_member_is_applied_everywhere_under_one_index() -> None:
    cluster = Cluster()
    indexes = [cluster.write(member, member.encode()).index for member in MEMBERS]
    cluster.run(0.2)
    assert indexes == [1, 2, 3]
    assert [machine.entries for machine in cluster.machines.values()] == [[b"a:1", b"b:1", b"c:1"]] * 3


def test_one_member_is_a_quorum_of_one() -> None:
    cluster = Cluster(members=("a:1",))
    assert cluster.write("a:1", b"x").result == b"r:x"
    read = cluster.read("a:1")
    cluster.run(0.05)
    assert read.told == [1]


def test_proposals_of_one_step_share_one_entry_and_one_sync() -> None:
    cluster = Cluster()
    leader = cluster.leader()
    cluster.run(0.2)
    engine, syncs = cluster.replicas[leader].engine, cluster.disks[leader].syncs
    before = engine.last_index
    outcomes = [cluster.propose(leader, b"%d" % i) for i in range(100)]
    cluster.until(lambda: all(outcome.told for outcome in outcomes))
    assert engine.last_index == before + 1
    assert cluster.disks[leader].syncs - syncs == 1
    assert [outcome.reply.index for outcome in outcomes] == list(range(1, 101))


def test_a_retry_gets_the_first_reply_on_another_member_too() -> None:
    cluster = Cluster()
    first = cluster.write("a:1", b"x", request_id=b"0123456789abcdef")
    assert cluster.write("b:1", b"x", request_id=b"0123456789abcdef") == first
    assert cluster.write("c:1", b"y").index == 2
    assert cluster.machines["c:1"].entries == [b"x", b"y"]


def test_the_same_request_waiting_twice_is_answered_twice_and_applied_once() -> None:
    cluster = Cluster()
    outcomes = [cluster.propose(member, b"x", request_id=b"0123456789abcdef") for member in ("a:1", "a:1", "b:1", "c:1")]
    cluster.until(lambda: all(outcome.told for outcome in outcomes))
    assert {outcome.reply.index for outcome in outcomes} == {1}


def test_a_killed_leader_is_replaced_at_once_and_nothing_acknowledged_is_lost() -> None:
    cluster = Cluster()
    leader = cluster.leader()
    for i in range(20):
        cluster.write(MEMBERS[i % 3], b"%d" % i)
    cluster.kill(leader)
    survivor = sorted(cluster.replicas)[0]
    began = cluster.clock.now
    assert cluster.write(survivor, b"next").index == 21
    assert cluster.clock.now - began < 0.3
    cluster.start(leader)
    cluster.until(lambda: len(cluster.machines[leader].entries) == 21)
    assert cluster.machines[leader].entries == cluster.machines[survivor].entries


def test_a_silent_leader_is_replaced_after_the_election_timeout() -> None:
    cluster = Cluster()
    leader = cluster.leader()
    followers = cluster.followers()
    for follower in followers:
        cluster.cut(leader, follower, seen=False)
    began = cluster.clock.now
    cluster.write(followers[0], b"x")
    assert cluster.clock.now - began < 1.5


def test_what_a_cut_off_leader_took_is_not_lost_but_proposed_again() -> None:
    cluster = Cluster()
    old = cluster.leader()
    cluster.write(old, b"before")
    for follower in cluster.followers():
        cluster.cut(old, follower)
    stranded = cluster.propose(old, b"stranded", timeout_s=20)
    others = [member for member in MEMBERS if member != old]
    for i in range(30):
        cluster.write(others[i % 2], b"%d" % i)
    assert not stranded.told
    cluster.heal()
    cluster.until(lambda: bool(stranded.told))
    cluster.run(0.3)
    assert stranded.reply.index == 32
    assert len({tuple(machine.entries) for machine in cluster.machines.values()}) == 1


def test_a_read_sees_what_was_acknowledged_elsewhere() -> None:
    cluster = Cluster()
    for i in range(12):
        index = cluster.write(MEMBERS[i % 3], b"%d" % i).index
        read = cluster.read(MEMBERS[(i + 1) % 3])
        cluster.until(lambda told=read.told: bool(told))  # type: ignore[misc]
        assert isinstance(read.told[0], int) and read.told[0] >= index


def test_reads_add_nothing_to_the_log() -> None:
    cluster = Cluster()
    leader = cluster.leader()
    cluster.run(0.2)
    before = cluster.replicas[leader].engine.last_index
    reads = [cluster.read(member) for member in MEMBERS for _ in range(50)]
    cluster.until(lambda: all(read.told for read in reads))
    assert cluster.replicas[leader].engine.last_index == before


def test_without_a_majority_every_call_ends_by_its_deadline_with_what_is_known() -> None:
    cluster = Cluster()
    leader = cluster.leader()
    others = cluster.followers()
    cluster.run(0.2)
    for member in others:
        cluster.kill(member)
    taken = cluster.propose(leader, b"x", timeout_s=1.0)
    read = cluster.read(leader, timeout_s=1.0)
    cluster.run(2.5)
    assert isinstance(taken.told[0], OutcomeUnknown)
    assert isinstance(read.told[0], NoLeader)
    refused = cluster.propose(leader, b"y", timeout_s=1.0)
    cluster.run(1.2)
    assert isinstance(refused.told[0], NoLeader), "it stepped down and sent it to nobody"


def test_limits() -> None:
    cluster = Cluster(max_waiting=3, max_entry_bytes=10)
    assert isinstance(cluster.propose("a:1", b"x" * 11).told[0], TooLarge)
    waiting = [cluster.propose("a:1", b"x") for _ in range(4)]
    assert [bool(outcome.told) for outcome in waiting] == [False, False, False, True]
    assert isinstance(waiting[3].told[0], QueueFull)


def test_a_retry_from_beyond_the_table_of_replies_is_not_applied_twice() -> None:
    cluster = Cluster(max_replies=12)
    leader = cluster.leader()
    cluster.run(0.1)
    # The leader's acknowledgements reach nobody for a while: the proposal commits, its origin does not hear of it.
    follower = cluster.followers()[0]
    outcome = cluster.propose(follower, b"once", timeout_s=30)
    cluster.replicas[follower].step()
    source, _, frame = next(item for item in cluster.in_flight if item[0] == follower and item[1] == leader)
    cluster.replicas[leader].received(source, frame)
    cluster.replicas[leader].step()
    for peer in MEMBERS:
        if peer != follower:
            cluster.cut(follower, peer)
    third = next(member for member in MEMBERS if member not in (leader, follower))
    for i in range(40):
        cluster.write((leader, third)[i % 2], b"%d" % i)
    cluster.heal()
    cluster.until(lambda: bool(outcome.told), 20)
    cluster.run(0.5)
    assert cluster.machines[leader].entries.count(b"once") == 1


def test_everything_comes_back_after_all_were_killed() -> None:
    cluster = Cluster()
    for i in range(25):
        cluster.write(MEMBERS[i % 3], b"%d" % i)
    for member in MEMBERS:
        cluster.kill(member)
    for member in MEMBERS:
        cluster.start(member)
    assert cluster.write("b:1", b"after").index == 26
    assert cluster.write("a:1", b"0", request_id=b"0123456789abcdef").index == 27


def test_a_member_long_away_comes_back_by_snapshot() -> None:
    cluster = Cluster(snapshot_every_entries=10)
    leader = cluster.leader()
    away = cluster.followers()[0]
    cluster.kill(away)
    for i in range(100):
        cluster.write(leader, b"%d" % i, request_id=b"%016d" % i)
    assert cluster.replicas[leader].engine.first_index > 20
    cluster.start(away)
    cluster.until(lambda: len(cluster.machines[away].entries) == 100)
    assert cluster.write(away, b"5", request_id=b"%016d" % 5).index == 6, "the replies travel with the snapshot"


def test_leadership_is_handed_over() -> None:
    cluster = Cluster()
    old = cluster.leader()
    done: list[bool] = []
    cluster.replicas[old].hand_over.begin(cluster.clock.now + 2, done.append)
    cluster.until(lambda: bool(done), 0.5)
    assert done == [True] and cluster.leader() != old


def test_a_bug_in_the_state_machine_halts_instead_of_applying_again() -> None:
    cluster = Cluster()
    leader = cluster.leader()
    outcome = cluster.propose(leader, b"bug")
    cluster.until(lambda: len(cluster.fatal) == 2)
    assert isinstance(outcome.told[0], LogHalted)
    assert all("ZeroDivisionError" in str(error) for error in cluster.fatal.values())


def test_a_failing_disk_halts_and_the_others_go_on() -> None:
    cluster = Cluster()
    leader = cluster.leader()
    cluster.disks[leader].fails = True
    outcome = cluster.propose(leader, b"x")
    cluster.until(lambda: leader in cluster.fatal)
    assert isinstance(outcome.told[0], LogHalted)
    del cluster.replicas[leader]
    assert cluster.write(cluster.leader(), b"y").index in (1, 2)


def test_a_rename_that_fails_halts_and_is_not_called_a_bug(caplog: pytest.LogCaptureFixture) -> None:
    cluster = Cluster()
    leader = cluster.leader()
    disk = cluster.disks[leader]
    renamed = disk.replace

    def replace(source: str, target: str) -> None:
        if target == "journal":
            raise OSError(errno.EIO, "the disk is gone")
        renamed(source, target)

    vars(disk)["replace"] = replace
    for i in range(5):
        cluster.write(leader, b"%d" % i)
    cluster.replicas[leader].engine.compact()
    cluster.until(lambda: leader in cluster.fatal)
    assert isinstance(cluster.fatal[leader], LogHalted)
    assert "the data directory cannot be written: [Errno 5] the disk is gone" in str(cluster.fatal[leader])
    assert "bug" not in caplog.text


def test_an_emptied_disk_is_refused_and_rejoins_as_a_learner() -> None:
    cluster = Cluster()
    for i in range(10):
        cluster.write("a:1", b"%d" % i)
    lost = cluster.followers()[0]
    cluster.kill(lost)
    cluster.disks[lost] = MemoryDisk()
    cluster.start(lost)
    cluster.until(lambda: lost in cluster.fatal)
    assert isinstance(cluster.fatal[lost], StartRefused) and "--rejoin" in str(cluster.fatal[lost])
    cluster.kill(lost)
    cluster.disks[lost] = MemoryDisk()
    cluster.start(lost, rejoin=True)
    assert cluster.replicas[lost].status().role is Role.LEARNER
    cluster.until(lambda: cluster.replicas[lost].status().role is not Role.LEARNER)
    assert len(cluster.machines[lost].entries) == 10
    cluster.kill(cluster.leader())
    assert cluster.write(lost, b"x").index == 11, "it counts again"


def test_a_learner_neither_votes_nor_counts() -> None:
    cluster = Cluster()
    leader = cluster.leader()
    lost, other = cluster.followers()
    cluster.write(leader, b"x")
    cluster.kill(lost)
    cluster.kill(other)
    cluster.disks[lost] = MemoryDisk()
    cluster.start(lost, rejoin=True)
    outcome = cluster.propose(leader, b"y", timeout_s=3)
    cluster.run(3.5)
    assert isinstance(outcome.told[0], OutcomeUnknown)
    assert cluster.replicas[lost].status().role is Role.LEARNER


def test_peers_that_share_nobody_with_the_data_directory_are_refused_others_are_overruled() -> None:
    cluster = Cluster()
    cluster.kill("a:1")
    cluster.members = ("x:1", "y:1", "z:1")
    with pytest.raises(StartRefused, match="none of them"):
        cluster.start("a:1")
    cluster.members = ("a:1", "b:1", "d:1")
    cluster.start("a:1")
    assert cluster.replicas["a:1"].membership.voters == set(MEMBERS)


def test_the_memory_log_keeps_the_same_contract() -> None:
    async def story() -> None:
        machine = ListMachine()
        log = MemoryLog(machine)
        first = await log.propose(b"x", request_id=b"0123456789abcdef")
        assert await log.propose(b"x", request_id=b"0123456789abcdef") == first
        waiting = asyncio.create_task(log.wait_applied(2))
        assert (await log.propose(b"y")).index == 2
        assert await waiting == 2 == await log.barrier()
        with pytest.raises(NoLeader):
            await log.wait_applied(3, timeout_s=0.01)
        with pytest.raises(TooLarge):
            await log.propose(bytes(600_000))
        await log.close()
        with pytest.raises(LogHalted):
            await log.propose(b"z")
        assert machine.entries == [b"x", b"y"]

    asyncio.run(story())


def test_status_tells_who_leads_and_who_is_down() -> None:
    cluster = Cluster()
    leader = cluster.leader()
    cluster.run(1.5)
    status = cluster.replicas[leader].status()
    assert status.role is Role.LEADER and status.leader == leader and status.caught_up
    assert sorted(member.role for member in status.members) == ["follower", "follower", "leader"]
    gone = cluster.followers()[0]
    cluster.kill(gone)
    cluster.run(0.1)
    assert {member.id: member.role for member in cluster.replicas[leader].status().members}[gone] == "down"


def test_tell_leader_reaches_the_leader_from_everywhere() -> None:
    cluster = Cluster()
    leader = cluster.leader()
    heard: list[tuple[str, bytes]] = []
    cluster.replicas[leader].on_message = lambda sender, payload: heard.append((sender, payload))
    for member in MEMBERS:
        assert cluster.replicas[member].tell_leader(member.encode())
    cluster.run(0.1)
    assert sorted(heard) == [(member, member.encode()) for member in MEMBERS]


def test_a_closed_replica_answers_nobody() -> None:
    cluster = Cluster(members=("a:1",))
    cluster.run(0.5)
    asyncio.run(cluster.replicas["a:1"].close())
    with pytest.raises(LogHalted):
        asyncio.run(cluster.replicas["a:1"].propose(b"x"))
    assert not cluster.fatal


def test_a_configuration_that_cannot_work_is_refused() -> None:
    with pytest.raises(StartRefused, match="not among the peers"):
        from_config(RaftConfig(me="z:1", members=MEMBERS))
    with pytest.raises(StartRefused, match="heartbeats"):
        from_config(RaftConfig(me="a:1", members=MEMBERS, heartbeat_s=0.2))


def from_config(config: RaftConfig) -> None:
    cluster = Cluster()
    wire = cluster.wires["a:1"]
    type(cluster.replicas["a:1"])(config, ListMachine(), disk=MemoryDisk(), wire=wire, clock=FakeClock(), random=cluster.random)
