"""Directed runs: hazards so rare that chance would take thousands of seeds to meet them, staged in the same world, judged the same way."""

from collections.abc import Callable

from .process import Process
from .simulation import Options, Simulation, squeezed

STEP_S = 0.01


class Stage:
    """A simulation without clients and faults of its own, moved by hand."""

    def __init__(
        self, seed: int, *, members: int = 3, ablate: str = "", prepare: Callable[[Simulation], None] = lambda simulation: None
    ) -> None:
        self.simulation = self._build(seed, Options(profile="none", members=members, ablate=frozenset(filter(None, [ablate]))))
        self.world = self.simulation.world
        self.network = self.simulation.network
        prepare(self.simulation)
        for _, process in sorted(self.simulation.processes.items()):
            process.start()

    def _build(self, seed: int, options: Options) -> Simulation:
        return Simulation(seed, options)

    def server(self, number: int) -> Process:
        return self.simulation.processes[self.simulation.names[number - 1]]

    def run(self, seconds: float) -> None:
        with squeezed(self.simulation.sizes):
            self.world.run_until(self.world.now + seconds)

    def until(self, reached: Callable[[], bool], at_most_s: float) -> float:
        """Run until then; the seconds it took. AssertionError if it never came, for then the stage is set wrongly."""
        began = self.world.now
        while not reached():
            assert self.world.now - began < at_most_s, f"not reached within {at_most_s} s"
            self.run(STEP_S)
        return self.world.now - began

    def leader(self, among: list[Process] | None = None) -> Process | None:
        """The leader of the latest term."""
        return max((p for p in among or self.simulation.processes.values() if p.leads()), key=lambda p: p.term, default=None)

    def settle(self) -> Process:
        """Wait until one leads."""
        self.run(1.0)
        self.until(lambda: self.leader() is not None, 5.0)
        leader = self.leader()
        assert leader is not None
        return leader

    def write(self, at: Process, count: int = 1) -> None:
        for _ in range(count):
            self.simulation.clients.append(server=at)
            self.run(STEP_S)

    def links(self, sources: list[Process], targets: list[Process]) -> list[tuple[str, str]]:
        return [(a.name, b.name) for a in sources for b in targets if a is not b]

    def hand_over(self, target: Process) -> None:
        """Let `target`, the first of the followers by name, lead."""
        leader = self.leader()
        assert leader is not None
        if leader is not target:
            leader.hand_over(2.0)
            self.until(lambda: self.leader() is target, 3.0)

    def kinds(self) -> set[str]:
        return set(self.world.violation_kinds)


def late_acknowledgement(seed: int, ablate: str = "") -> set[str]:
    """An acknowledgement given in an earlier leadership arrives in a later one, when what it spoke of has long been cut off (H5).

    Five members: s1 leads, only s2 hears it, and s2's answers are held up. The others elect a leader, whose log replaces that of both; s1
    comes to lead again, writes, and only s3 hears it. Then the old answers arrive.
    """
    stage = Stage(seed, members=5, ablate=ablate)
    stage.settle()
    first, second = stage.server(1), stage.server(2)
    rest = [stage.server(n) for n in (3, 4, 5)]
    stage.hand_over(first)
    stage.run(0.3)
    late, outside = stage.links([second], [first]), stage.links([first, second], rest) + stage.links(rest, [first, second])
    stage.network.cut(late + outside)
    stage.write(first, 6)
    stage.run(0.05)
    early = stage.links([first], [second])
    stage.network.cut(early)
    stage.until(lambda: stage.leader(rest) is not None, 2.0)
    stage.network.heal(outside)
    stage.run(0.4)
    stage.hand_over(first)
    stage.run(0.05)
    stage.network.cut(stage.links([first], rest[1:]))
    stage.write(first, 4)
    stage.network.heal(late)
    stage.run(0.2)
    return stage.kinds()


def overtaken_snapshot(seed: int, ablate: str = "") -> set[str]:
    """A snapshot begun before a newer one was installed is finished after it, and the server started anew (H3)."""

    def slow(simulation: Simulation) -> None:
        for process in simulation.processes.values():
            process.snapshot_s = 0.01
        simulation.processes[simulation.names[2]].snapshot_s = 6.0

    stage = Stage(seed, ablate=ablate, prepare=slow)
    stage.settle()
    stage.hand_over(stage.server(1))
    leader, follower = stage.server(1), stage.server(3)
    while not follower.writes_snapshot():
        stage.write(leader)
    others = [stage.server(1), stage.server(2)]
    around = stage.links([follower], others) + stage.links(others, [follower])
    restores = stage.world.counts["restores"]
    stage.network.cut(around)
    stage.write(leader, 150)
    stage.network.heal(around)
    stage.until(lambda: stage.world.counts["restores"] > restores, 3.0)
    assert follower.writes_snapshot(), "it was too quick"
    stage.until(lambda: not follower.writes_snapshot(), 10.0)
    stage.run(0.2)
    follower.die(power=False)
    follower.start()
    stage.run(0.5)
    return stage.kinds()


def deposed_leader(seed: int, ablate: str = "") -> float:
    """A leader cut off from everybody is heard again by all, but cannot hear its successor (H13): the seconds it leads on after that."""
    stage = Stage(seed, ablate=ablate)
    deposed = stage.settle()
    stage.run(0.3)
    others = [p for p in stage.simulation.processes.values() if p is not deposed]
    stage.network.cut(stage.links([deposed], others) + stage.links(others, [deposed]))
    stage.until(lambda: stage.leader(others) is not None, 1.1)
    successor = stage.leader(others)
    stage.network.heal(
        [link for link in stage.links([deposed], others) + stage.links(others, [deposed]) if link != (_name(successor), deposed.name)]
    )
    assert deposed.leads(), "it had stepped down by itself"
    return stage.until(lambda: not deposed.leads(), 3.0)


def _name(process: Process | None) -> str:
    assert process is not None
    return process.name
