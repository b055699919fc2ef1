"""What peers send that no peer should: noise, rubbish, late answers, and a log that contradicts itself."""

from random import Random

import pytest

from raft.messages import Ack, AppendEntries, HigherTerm, Malformed, Relayed, decode, encode

from .cluster import Cluster


def test_rubbish_costs_its_sender_the_connection() -> None:
    cluster = Cluster()
    cluster.leader()
    cluster.replicas["a:1"].received("b:1", b"\xff\x00rubbish")
    cluster.replicas["a:1"].step()
    assert ("a:1", "b:1") not in cluster.links
    cluster.run(0.5)
    assert cluster.write("b:1", b"x").index == 1


def test_a_late_acknowledgement_of_an_earlier_term_does_not_count() -> None:
    cluster = Cluster()
    leader = cluster.leader()
    replica, follower = cluster.replicas[leader], cluster.followers()[0]
    cluster.run(0.2)
    before = replica.engine.match_index(follower)
    replica.received(
        follower, encode(Ack(term=replica.engine.term - 1, seq=10, next_index=before + 1000, reset=False, success=True, learner=False))
    )
    replica.step()
    assert replica.engine.match_index(follower) == before


def test_a_leader_that_would_overwrite_what_is_committed_is_not_followed() -> None:
    cluster = Cluster()
    leader = cluster.leader()
    for i in range(5):
        cluster.write(leader, b"%d" % i)
    cluster.run(0.2)
    follower = cluster.followers()[0]
    engine = cluster.replicas[follower].engine
    index = engine.commit_index
    wrong = AppendEntries(
        term=engine.term + 1,
        seq=1,
        commit=index,
        prev_index=index - 1,
        prev_term=engine.term_at(index - 1),
        entries=[(b"\x01", index, engine.term + 1)],
    )
    cluster.replicas[follower].received(leader, encode(wrong))
    cluster.replicas[follower].step()
    assert "overwrite committed" in str(cluster.fatal[follower])


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\x00",
        b"\x93\x01\x02\x03",
        b"\xc1",
        b"\x98\x01\xff\x01\x01\x01\x01\x90",
        b"\x92\x63\x01",
        b"\x93\x08\x01\x01",
        b"\x92\x08\xcf" + b"\xff" * 8,
    ],
)
def test_frames_that_are_not_messages(frame: bytes) -> None:
    with pytest.raises(Malformed):
        decode(frame)


def test_noise_is_never_anything_but_malformed() -> None:
    noise = Random(1)
    good = encode(AppendEntries(term=3, seq=1, commit=1, prev_index=4, prev_term=2, entries=[(b"\x00abc", 5, 3)]))
    for _ in range(3000):
        frame = bytearray(good if noise.random() < 0.5 else noise.randbytes(noise.randrange(60)))
        for _ in range(noise.randrange(1, 4)):
            if frame:
                frame[noise.randrange(len(frame))] = noise.randrange(256)
        try:
            decode(bytes(frame))
        except Malformed:
            continue


def test_a_relayed_frame_inside_a_relayed_frame_is_not_followed() -> None:
    cluster = Cluster()
    cluster.leader()
    frame = encode(HigherTerm(term=1 << 40))
    for _ in range(2):
        frame = encode(Relayed(origin="b:1", target="a:1", frame=frame))
    term = cluster.replicas["a:1"].engine.term
    cluster.replicas["a:1"].received("b:1", frame)
    cluster.replicas["a:1"].step()
    assert cluster.replicas["a:1"].engine.term == term
