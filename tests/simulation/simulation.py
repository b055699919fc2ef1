"""One run: build the world from a seed, let it go wrong for a while, heal it, and judge what is left."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from hashlib import blake2b
from types import ModuleType

from msgspec import Struct

from raft import pipeline, proposals
from raft.contract import RaftConfig

from .checkers import Books
from .disk import Inode
from .faults import PROFILES, Fault, Nemesis
from .network import Latency, Network
from .process import Pace, Process
from .workload import Clients, Server
from .world import Violation, World

PORT = 7000
WRITE_BACK_S = 5.0
HEAL_S = 10.0
"""Time the cluster has, once everything is healed, to accept a write and to converge."""
CRAWLING_S = 0.01
"""In the smallest pieces, with latencies up to more than this, a link carries less than clients ask for: what waits takes twice as long."""
SETTLE_S = 4.0
OUTCOME_SLACK_S = 0.5


class Density(Struct, frozen=True, kw_only=True):
    """How dense a run is: seconds between two faults on average, and what the clients of the log ask for."""

    fault_every_s: float
    writes_per_s: float
    reads_per_s: float


DENSE, CALM = "dense", "calm"
DENSITIES = {
    DENSE: Density(fault_every_s=1.5, writes_per_s=8.0, reads_per_s=6.0),
    CALM: Density(fault_every_s=8.0, writes_per_s=0.4, reads_per_s=0.4),
}


class Options(Struct, frozen=True, kw_only=True):
    profile: str = "kill"
    seconds: float = 30.0
    members: int = 3
    ablate: frozenset[str] = frozenset()
    plant: str = ""
    """A bug planted for the length of the run (`plants.py`)."""
    density: str = DENSE
    keep_trace: bool = False
    only: tuple[Fault, ...] | None = None
    """These faults of an earlier run, instead of drawing any."""

    @property
    def fault_every_s(self) -> float:
        return DENSITIES[self.density].fault_every_s


def apply_s(world: World) -> float:
    """No time passes within a step: all that is committed is applied in it, or in some runs one entry."""
    return 0.0 if world.random("apply").random() < 0.2 else 1.0


class Outcome(Struct, frozen=True, kw_only=True):
    """What one run did and found."""

    seed: int
    trace: str
    violations: tuple[Violation, ...]
    kinds: dict[str, int]
    struck: tuple[Fault, ...]
    counts: dict[str, int]
    answers: dict[str, int]
    elections: int
    newest_term: int
    stale_leader_s: float
    """Sum over members of the time one led while another led a later term."""
    worst_gap_s: float
    simulated_s: float


class Sizes(Struct, frozen=True, kw_only=True):
    """Limits made so small that what takes megabytes in production happens all the time: many frames to catch up, many pieces."""

    append: int
    window: int
    batch: int
    transfer: int


ROOMY = Sizes(append=2 * 1024 * 1024, window=4 * 1024 * 1024, batch=512 * 1024, transfer=256 * 1024)
NARROW = Sizes(append=600, window=4_000, batch=1_500, transfer=700)
TIGHT = Sizes(append=150, window=300, batch=200, transfer=150)


@contextmanager
def squeezed(sizes: Sizes) -> Iterator[None]:
    """They are constants of modules; for the length of a run they are others."""
    changed: tuple[tuple[ModuleType, str, int], ...] = (
        (pipeline, "MAX_APPEND_BYTES", sizes.append),
        (pipeline, "WINDOW_BYTES", sizes.window),
        (proposals, "MAX_BATCH_BYTES", sizes.batch),
    )
    kept = [getattr(module, name) for module, name, _ in changed]
    for module, name, value in changed:
        setattr(module, name, value)
    try:
        yield
    finally:
        for (module, name, _), value in zip(changed, kept, strict=True):
            setattr(module, name, value)


class Simulation:
    def __init__(self, seed: int, options: Options) -> None:
        if options.profile not in PROFILES:
            raise ValueError(f"no profile {options.profile!r}; there are {', '.join(PROFILES)}")
        self.seed = seed
        self.options = options
        self.world = World(seed, keep_trace=options.keep_trace)
        chance = self.world.random("shape")
        self.names = [f"s{i}:{PORT}" for i in range(1, options.members + 1)]
        self.network = Network(
            self.world,
            self.names,
            Latency(
                longest_s=chance.choice((0.002, 0.005, 0.03)),
                slow_share=chance.choice((0.0, 0.01, 0.05)),
                slow_s=chance.choice((0.1, 0.4, 1.2)),
            ),
        )
        self.books = Books(self.world, self.names, self._holds)
        entries, size, replies = chance.choice((10, 25, 60)), chance.choice((4_000, 20_000, 100_000)), 5_000
        self.sizes = chance.choice((ROOMY, NARROW, TIGHT))
        if options.density == CALM and self.sizes is TIGHT:
            self.sizes = NARROW  # In the smallest pieces the state of a long life takes longer than until the next snapshot.
        self.processes: dict[str, Process] = {}
        for name in self.names:
            config = RaftConfig(
                me=name,
                members=tuple(self.names),
                max_replies=replies,
                snapshot_every_bytes=size,
                snapshot_every_entries=entries,
                apply_s=apply_s(self.world),
                ablate=options.ablate,
            )
            pace = Pace(
                snapshot_s=chance.choice((0.005, 0.1, 0.6, 2.5)),
                sync_s=chance.choice((0.0, 0.0, 0.004, 0.03)),
                transfer_bytes=self.sizes.transfer,
            )
            self.template = config, pace
            self.processes[name] = self._process(config, pace)
        self.nemesis = self._nemesis()
        for process in self.processes.values():
            process.on_snapshot_renamed = self.nemesis.snapshot_renamed
        self.clients = Clients(
            self.world, self.books, self._serving(),
            writes_per_s=DENSITIES[options.density].writes_per_s, reads_per_s=DENSITIES[options.density].reads_per_s,
        )

    def _process(self, config: RaftConfig, pace: Pace) -> Process:
        return Process(self.world, self.network, self.books, config, pace)

    def _nemesis(self) -> Nemesis:
        options = self.options
        return Nemesis(self.world, self.network, dict(self.processes), options.profile, options.fault_every_s, only=options.only)

    def _serving(self) -> dict[str, Server]:
        """Whom clients ask."""
        return dict(self.processes)

    def _holds(self, name: str, token: bytes) -> bool:
        """Whether a member that counts has, or had on a disk it lost, `token` among the bytes a power loss leaves, in any format."""
        process = self.processes[name]
        needle = token + b"|"
        if any(_durable(inode, needle) for inode in process.platter.lost.values()):
            return True
        if process.is_learner:
            return False
        return any(_durable(inode, needle) for inode in process.platter.durable.values())

    def run(self) -> Outcome:
        with squeezed(self.sizes):
            return self._run()

    def _run(self) -> Outcome:
        options, world = self.options, self.world
        for _, process in sorted(self.processes.items()):
            process.start()
        self.clients.start(1.0, options.seconds)
        self.nemesis.start(2.5)
        world.after(WRITE_BACK_S, self._write_back)
        world.run_until(options.seconds)
        self._heal()
        self._finish()
        return self._outcome()

    def _write_back(self) -> None:
        for _, process in sorted(self.processes.items()):
            process.platter.write_back()
        self.world.after(WRITE_BACK_S, self._write_back)

    def members(self) -> list[str]:
        """Whom the cluster consists of by now."""
        return self.names

    def _heal(self) -> None:
        """Everything works again: within HEAL_S a write through every member must be accepted."""
        world = self.world
        within_s = 2 * HEAL_S if self.sizes is TIGHT and self.network.latency.longest_s > CRAWLING_S else HEAL_S
        self.nemesis.heal()
        world.log("healed")
        accepted: set[str] = set()
        deadline = world.now + within_s
        while len(accepted) < len(self.members()) and world.now < deadline:
            for name, process in sorted(self.processes.items()):
                if name not in accepted and process.serving:
                    self.clients.append(partial(accepted.add, name), process)
            world.run_until(world.now + 0.5)
        if len(accepted) < len(self.members()):
            missing = sorted(set(self.members()) - accepted)
            world.violate("stuck", f"no write accepted through {missing} within {within_s} s after everything was healed")
        world.counts["heal-ms"] += int(1000 * (world.now - deadline + within_s))
        world.run_until(world.now + SETTLE_S)

    def _finish(self) -> None:
        world, books = self.world, self.books
        for process in (self.processes[name] for name in self.members()):
            if not process.alive:
                world.violate("stuck", f"{process.name} does not run: {process.exit_reason}")
            elif not process.is_voter():
                world.violate("stuck", f"{process.name} never became a voter again")
        whole = {name: p for name, p in self.processes.items() if p.alive and name in self.members()}
        applied = {name: p.machine.index for name, p in whole.items()}
        if len(set(applied.values())) > 1:
            world.violate("stuck", f"not converged: {applied}")
        books.final({name: p.machine.tokens for name, p in whole.items()})
        books.overdue({name: p.life for name, p in self.processes.items() if p.alive}, OUTCOME_SLACK_S)
        for _, process in sorted(self.processes.items()):
            process.check_disk()
            world.log("end", process.name, process.machine.index, blake2b(b"".join(process.machine.tokens), digest_size=8).hexdigest())

    def _outcome(self) -> Outcome:
        world, books = self.world, self.books
        return Outcome(
            seed=self.seed,
            trace=world.trace_hash(),
            violations=tuple(world.violations),
            kinds=dict(world.violation_kinds),
            struck=tuple(self.nemesis.struck),
            counts=dict(world.counts),
            answers=dict(books.outcomes),
            elections=len(books.leaders),
            newest_term=books.newest_term,
            stale_leader_s=round(sum(p.stale_leader_s for p in self.processes.values()), 3),
            worst_gap_s=round(max(books.gaps, default=0.0), 3),
            simulated_s=world.now,
        )


def _durable(inode: Inode, needle: bytes) -> bool:
    # From the end: what is asked for has just been written.
    return inode.data.rfind(needle, 0, inode.synced) >= 0 or (bool(inode.cut_tail) and needle in inode.platter())
