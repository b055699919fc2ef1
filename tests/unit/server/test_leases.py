"""The leader's leases, with a clock that is a number."""

from kago.server.leases import Leases

LEASE_S = 5.0


def leases(*names: str, now: float = 0.0) -> Leases:
    made = Leases(lease_s=LEASE_S, heartbeat_s=1.0)
    made.gained(names, now)
    return made


def test_a_node_that_falls_silent_expires_after_its_lease() -> None:
    held = leases("a", "b")
    for second in range(1, 5):
        held.heard("a", 1, float(second))
        held.heard("b", 1, float(second))
    for second in range(5, 9):
        held.heard("b", 1, float(second))
    assert held.liveness((), 8.9).expired == ()
    assert held.liveness((), 9.1).expired == ("a",)
    assert round(held.liveness((), 9.1).silent_s["a"], 1) == 5.1


def test_a_new_leader_blames_nobody_before_a_whole_lease_of_its_own() -> None:
    held = leases("a", now=1000.0)
    assert held.liveness((), 1004.9).expired == ()
    assert held.liveness((), 1004.9).next_expiry == 1005.0
    assert held.liveness((), 1005.0).expired == ("a",)


def test_one_that_is_heard_again_is_back() -> None:
    held = leases("a")
    assert held.liveness((), 5.0).expired == ("a",)
    assert held.heard("a", 2, 6.0) is True
    liveness = held.liveness(("a",), 6.0)
    assert (liveness.expired, liveness.heard) == ((), (("a", 2),))
    assert held.liveness(("a",), 11.0).expired == ("a",)


def test_only_news_wakes_the_leader() -> None:
    held = leases("a")
    assert held.heard("a", 1, 1.0) is True, "the first word of this life of the agent"
    assert held.heard("a", 1, 2.0) is False
    assert held.heard("a", 1, 3.0, leaving=True) is True
    assert held.heard("a", 1, 3.1, leaving=True) is False


def test_one_that_says_good_bye_leaves_at_once_and_expires_later() -> None:
    held = leases("a")
    held.heard("a", 1, 1.0, leaving=True)
    liveness = held.liveness((), 1.0)
    assert (liveness.leaving, liveness.expired, liveness.heard) == (("a",), (), ())
    assert held.liveness(("a",), 6.0).expired == ("a",)
    held.heard("a", 2, 7.0)
    assert held.liveness(("a",), 7.0).leaving == ()


def test_what_a_good_bye_has_overtaken_does_not_bring_the_node_back() -> None:
    held = leases("a")
    held.heard("a", 1, 1.0, leaving=True)
    assert held.heard("a", 1, 1.1) is False
    liveness = held.liveness(("a",), 1.1)
    assert (liveness.leaving, liveness.heard) == (("a",), ())
    assert held.liveness(("a",), 6.0).expired == ("a",), "nor does it prolong the lease"
    assert held.heard("a", 2, 6.5) is True, "the next life of the agent is another matter"
    assert held.liveness(("a",), 6.5).heard == (("a", 2),)


def test_one_never_heard_since_we_lead_is_not_said_to_be_back() -> None:
    assert leases("a").liveness(("a",), 1.0).heard == ()


def test_a_pause_of_our_own_is_nobodys_silence() -> None:
    held = leases("a", "b")
    for tenths in range(30):
        held.tick(tenths / 10)
    held.heard("a", 1, 2.9)
    held.heard("b", 1, 2.9)
    # Stopped for a minute; "b" speaks before the first tick after it.
    held.heard("b", 1, 63.0)
    held.tick(63.0)
    assert held.liveness((), 63.0).expired == ()
    held.heard("c", 1, 67.5)
    assert held.liveness((), 68.1).expired == ()
    for second in range(68, 73):
        held.heard("c", 1, float(second))
    assert held.liveness((), 72.6).expired == ("a", "b"), "a lease later, and not a pause later for the one already heard"


def test_a_leader_that_hears_nobody_blames_nobody() -> None:
    """Its link is bad: what both nodes said got stuck on the way to it."""
    held = leases("a", "b")
    for second in range(1, 4):
        held.heard("a", 1, float(second))
        held.heard("b", 1, float(second))
    assert held.liveness((), 12.0).expired == ()
    held.heard("a", 1, 12.5)
    assert held.liveness((), 12.5).expired == (), "b was as silent as a, who is well"
    for second in range(13, 18):
        held.heard("a", 1, float(second))
    assert held.liveness((), 17.4).expired == ()
    assert held.liveness((), 17.6).expired == ("b",), "a lease of its own after that, no more"


def test_a_new_leader_that_hears_nobody_blames_nobody() -> None:
    held = leases("a", "b", now=100.0)
    assert held.liveness((), 105.0).expired == ()
    assert held.liveness((), 105.0).next_expiry == 130.0, "and it does not ask again and again until then"


def test_everybody_silent_for_long_is_gone() -> None:
    held = leases("a", "b")
    held.heard("a", 1, 1.0)
    held.heard("b", 1, 1.0)
    assert held.liveness((), 30.9).expired == ()
    assert held.liveness((), 31.0).expired == ("a", "b")


def test_one_that_is_heard_now_and_then_does_not_excuse_the_others_for_ever() -> None:
    held = leases("a", "b")
    held.heard("b", 1, 0.0)
    moment = 0.0
    while not held.liveness((), moment).expired:
        moment += 4.0
        held.heard("a", 1, moment)
        assert moment < 60.0
    assert held.liveness((), moment).expired == ("b",)


def test_the_last_one_left_is_judged_by_its_lease() -> None:
    held = leases("a", "b", "c")
    held.heard("c", 1, 1.0, leaving=True)
    for second in range(1, 7):
        held.heard("a", 1, float(second))
    assert held.liveness((), 6.0).expired == ("b", "c")
    assert held.liveness((), 10.9).expired == ("b", "c")
    assert held.liveness((), 11.0).expired == ("a", "b", "c")


def test_short_gaps_are_no_pause() -> None:
    held = leases("a")
    for tenths in range(0, 60, 9):
        held.tick(tenths / 10)
    assert held.liveness((), 5.4).expired == ("a",)


def test_what_could_not_be_heard_through_the_other_servers_is_nobodys_silence() -> None:
    held = leases("a", "b")
    for quarters in range(1, 41):
        now = quarters / 4
        held.tick(now, alone=3.0 < now <= 6.0)
        held.heard("b", 1, now)  # it reaches this server itself
        expired = held.liveness((), now).expired
        assert expired == (("a",) if now >= 8.0 else ()), now


def test_many_nodes_stretch_the_interval_and_the_lease() -> None:
    held = leases()
    assert (held.interval_s(10), held.lease_s(10)) == (1.0, 5.0)
    assert (held.interval_s(5000), held.lease_s(5000)) == (10.0, 50.0)


def test_a_deleted_node_is_forgotten_and_its_successor_has_a_lease_of_its_own() -> None:
    held = leases("a")
    for life in range(1, 4):
        held.forget("a")
        held.heard("a", life, float(life))
    assert held.liveness((), 7.9).expired == ()
    assert held.liveness((), 8.0).expired == ("a",)
    assert held.liveness((), 9.0).next_expiry is None, "nothing of the earlier ones is left"


def test_lost_leadership_forgets_everything() -> None:
    held = leases("a")
    held.heard("a", 1, 1.0, leaving=True)
    held.lost()
    liveness = held.liveness(("a",), 100.0)
    assert (liveness.expired, liveness.leaving, liveness.heard, liveness.next_expiry) == ((), (), (), None)
    assert held.age_s("a", 100.0) is None


def test_a_node_is_missed_after_some_beats_however_long_its_lease_is() -> None:
    held = Leases(lease_s=600.0, heartbeat_s=1.0)
    held.gained(["a", "b"], 0.0)
    held.heard("a", 1, 2.0)
    assert (held.misses("a", 3.5), held.misses("b", 3.5), held.misses("c", 3.5)) == (False, True, False)
    many = Leases(lease_s=5.0, heartbeat_s=1.0)
    many.gained([f"n{n}" for n in range(2000)], 0.0)
    assert not many.misses("n1", 11.0), "of so many each speaks every four seconds"
