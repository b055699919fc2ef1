"""The world itself: a checker that sees nothing, a disk that forgets nothing or a network that reorders would prove nothing."""

from collections.abc import Callable
from random import Random

import pytest

from tests.simulation.checkers import Books
from tests.simulation.disk import PAGE, Platter, SimCrash, SimDisk
from tests.simulation.machine import ListMachine, entry_of, result_of
from tests.simulation.network import Latency, Network, SimWire
from tests.simulation.world import World


def platter(seed: int = 1) -> Platter:
    return Platter("a", Random(seed), lambda *words: None)


def test_synced_bytes_survive_power_loss_and_unsynced_pages_are_a_lottery() -> None:
    tails = set()
    for seed in range(40):
        hardware = platter(seed)
        disk = SimDisk(hardware)
        file = disk.open_append("journal")
        disk.sync_directory()
        file.append(b"s" * 1000)
        file.sync()
        file.append(b"u" * (3 * PAGE))
        hardware.lose_power()
        left = SimDisk(hardware).read("journal")
        assert left.startswith(b"s" * 1000) and left.endswith(bytes(PAGE)), "what is written on after a sync has zeros behind it"
        tails.add((len(left), left.count(b"u")))
    assert len(tails) > 20
    assert any(0 < kept < length - 1000 for length, kept in tails), "no page was lost before one that was kept"


def test_kill_keeps_the_page_cache_and_the_dead_handle_can_do_nothing() -> None:
    hardware = platter()
    disk = SimDisk(hardware)
    file = disk.open_append("journal")
    hardware.crash_at = hardware.operations + 2
    file.append(b"whole")
    with pytest.raises(SimCrash):
        file.append(b"torn")
    with pytest.raises(SimCrash):
        disk.sync_directory()
    left = SimDisk(hardware).read("journal")
    assert left.startswith(b"whole") and b"wholetorn".startswith(left)


def test_a_rename_is_lost_or_kept_but_never_half_unless_the_directory_was_synced() -> None:
    seen = set()
    for seed in range(40):
        hardware = platter(seed)
        disk = SimDisk(hardware)
        for name, text in (("snapshot", b"old"), ("snapshot.new", b"new")):
            file = disk.open_append(name)
            file.append(text)
            file.sync()
        disk.sync_directory()
        hardware.crash_at = hardware.operations + 2
        with pytest.raises(SimCrash):
            disk.replace("snapshot.new", "snapshot")
        hardware.lose_power()
        seen.add(SimDisk(hardware).read("snapshot"))
    assert seen == {b"old", b"new"}


def test_full_and_failing_disks_say_so() -> None:
    hardware = platter()
    disk = SimDisk(hardware)
    file = disk.open_append("journal")
    hardware.free_bytes = 3
    with pytest.raises(OSError, match="No space"):
        file.append(b"12345")
    assert file.size() == 3
    hardware.free_bytes = None
    hardware.fail_sync = True
    with pytest.raises(OSError, match="Input/output"):
        file.sync()
    assert not disk.used_after_failure
    with pytest.raises(OSError, match="Input/output"):
        file.sync()
    assert disk.used_after_failure


class Talker:
    """A process that only listens: `WireEvents` and the network's host in one."""

    def __init__(self, name: str, world: World, network: Network) -> None:
        self.name = self.id = name
        self.powered = True
        self.alive = True
        self.heard: list[tuple[str, bytes]] = []
        self.events: list[tuple[str, str, bool]] = []
        self.wire = SimWire(network, self)
        self.wire.set_peers({peer: peer for peer in network.names if peer != name})
        self.wire.start(self)

    def post(self, event: Callable[[], None]) -> None:
        if self.alive:
            event()

    def connected(self, peer: str) -> None:
        self.events.append(("up", peer, False))

    def disconnected(self, peer: str, *, by_peer: bool) -> None:
        self.events.append(("down", peer, by_peer))

    def received(self, peer: str, frame: bytes) -> None:
        self.heard.append((peer, frame))

    def handshake_refused(self, peer: str, reason: str) -> None:
        self.events.append(("refused", peer, False))

    def introduce(self, peer: str) -> bytes:
        return self.name.encode()

    def welcome(self, hello: bytes, certified: str | None = None) -> str:
        return hello.decode()


def pair(seed: int) -> tuple[World, Network, Talker, Talker]:
    world = World(seed)
    network = Network(world, ["a", "b"], Latency(slow_share=0.3))
    a, b = Talker("a", world, network), Talker("b", world, network)
    world.run_until(1.0)
    return world, network, a, b


def test_frames_arrive_in_order_and_a_cut_only_holds_them() -> None:
    world, network, a, b = pair(3)
    for i in range(100):
        if i == 30:
            network.cut([("a", "b")])
        if i == 60:
            network.heal([("a", "b")])
        assert a.wire.send("b", b"%d" % i)
        world.run_until(world.now + 0.003)
    world.run_until(world.now + 2)
    assert [int(frame) for _, frame in b.heard] == list(range(100))


def test_a_kill_is_seen_by_the_peer_and_a_power_loss_only_by_its_silence() -> None:
    world, network, a, b = pair(4)
    b.alive = False
    network.process_gone("b", power=False)
    world.run_until(world.now + 0.5)
    assert a.events[-1] == ("down", "b", True)
    world, network, a, b = pair(4)
    b.alive = False
    network.process_gone("b", power=True)
    world.run_until(world.now + 1)
    assert a.events == [("up", "b", False)]
    world.run_until(world.now + 5)
    assert a.events[-1] == ("down", "b", False)


def test_a_broken_connection_loses_what_is_under_way_and_is_dialled_again() -> None:
    world, network, a, b = pair(5)
    network.cut([("a", "b")])
    a.wire.send("b", b"lost")
    network.break_connection("a", "b", seen_as_reset=True)
    network.heal([("a", "b")])
    world.run_until(world.now + 3)
    assert a.wire.is_connected("b") and b.wire.is_connected("a")
    a.wire.send("b", b"kept")
    world.run_until(world.now + 1)
    assert b.heard == [("a", b"kept")]


def books(holders: int = 3) -> tuple[World, Books]:
    world = World(1)
    return world, Books(world, ["a", "b", "c"], lambda name, token: name in ["a", "b", "c"][:holders])


def kinds(world: World) -> set[str]:
    return set(world.violation_kinds)


def test_the_checkers_see_divergence_order_and_missing_majorities() -> None:
    world, clerk = books(holders=1)
    first, second = ListMachine("a", clerk), ListMachine("b", clerk)
    first.apply(1, entry_of(b"w0.0", 3))
    assert kinds(world) == {"commit-without-majority"}
    second.apply(1, entry_of(b"w1.0", 3))
    assert {"agreement", "digest"} <= kinds(world)
    second.apply(3, entry_of(b"w2.0", 3))
    assert "order" in kinds(world)


def test_the_checkers_see_lost_doubled_and_denied_writes() -> None:
    world, clerk = books()
    machine = ListMachine("a", clerk)
    wanted, denied = clerk.begin(b"r0"), clerk.begin(None)
    one = clerk.attempt(wanted, "a", 1, 1.0)
    other = clerk.attempt(denied, "a", 1, 1.0)
    result = machine.apply(1, entry_of(one.token, 0))
    clerk.done(wanted, one, 1, result)
    clerk.not_done(other)
    assert not world.violations and result == result_of(one.token, 1)
    clerk.unknown(other)
    assert kinds(world) == {"two-outcomes"}
    clerk.not_done(other)
    clerk.final({"a": [], "b": [one.token, one.token], "c": [one.token, other.token]})
    assert {"acknowledged-write-lost", "applied-twice", "not-done-but-there", "state-differs"} <= kinds(world)


def test_the_checkers_see_stale_reads_and_time_travel() -> None:
    world, clerk = books()
    machine = ListMachine("a", clerk)
    for i in range(1, 4):
        operation = clerk.begin(None)
        attempt = clerk.attempt(operation, "a", 1, 1.0)
        clerk.done(operation, attempt, i, machine.apply(i, entry_of(attempt.token, 0)))
    clerk.read_done("a", clerk.known, 2)
    assert kinds(world) == {"stale-read"}
    view = machine.snapshot()
    machine.restore(2, view())
    assert {"time-travel", "snapshot", "digest"} <= kinds(world)
