"""Runs by name: which profile is of which kind of simulation, and many of them, one after the other or in several processes."""

import logging
import multiprocessing
import signal
from collections.abc import Iterable, Iterator
from itertools import islice

from msgspec import structs

from . import faults
from .cluster import faults as cluster_faults
from .cluster.simulation import ClusterSimulation
from .members import MemberSimulation
from .plants import planted
from .simulation import CALM, DENSE, Options, Outcome, Simulation
from .world import Violation

MEMBER = "member"
MEMBER_EVERY = 13
"""Every so many seeds; the others are what they were before there was this profile."""
LATER = {17: "cluster-members", 19: "cluster-power"}
"""In the same way: profiles that came later, and how seldom their turn is."""
PROFILES = (*faults.PROFILES, *cluster_faults.PROFILES)
_TURNS = tuple(name for name in PROFILES if name not in (MEMBER, *LATER.values()))
LONG_LIFE = 22
IN_FLIGHT = 4
"""Runs given to each process ahead of what it has finished."""


def profile_of(seed: int, wanted: str) -> str:
    """`all` gives each seed a profile by turns, so that a seed alone always means the same run."""
    if wanted != "all":
        return wanted
    for every, name in LATER.items():
        if seed % every == every - 1:
            return name
    return MEMBER if seed % MEMBER_EVERY == MEMBER_EVERY - 1 else _TURNS[seed % len(_TURNS)]


def mixed(seed: int, options: Options) -> Options:
    """Every second run of the log is calm and lasts LONG_LIFE times as long: what shows only in a long life is asked for as well."""
    if options.profile in cluster_faults.PROFILES or options.profile == "none" or seed // len(_TURNS) % 2:
        return options
    return structs.replace(options, density=CALM, seconds=LONG_LIFE * options.seconds)


def build(seed: int, options: Options) -> Simulation | ClusterSimulation:
    """ValueError for a profile there is not."""
    if options.profile in cluster_faults.PROFILES:
        return ClusterSimulation(seed, options)
    return MemberSimulation(seed, options) if options.profile == MEMBER else Simulation(seed, options)


def simulate(seed: int, options: Options) -> Outcome:
    """A simulation that breaks is a failed run, so that a campaign names its seed and goes on."""
    with planted(options.plant):
        simulation = build(seed, options)
        try:
            return simulation.run()
        except Exception as error:
            return _broken(seed, simulation.world.now, f"{type(error).__name__}: {error}")


def _broken(seed: int, at: float, why: str) -> Outcome:
    return Outcome(
        seed=seed, trace="", violations=(Violation(at=at, kind="broken", detail=why),), kinds={"broken": 1}, struck=(), counts={},
        answers={}, elections=0, newest_term=0, stale_leader_s=0.0, worst_gap_s=0.0, simulated_s=at,
    )


def simulate_all(runs: Iterable[tuple[int, Options]], *, jobs: int) -> Iterator[tuple[Options, Outcome]]:
    """As they end; in order where there is one process."""
    if jobs <= 1:
        for seed, options in runs:
            yield options, simulate(seed, options)
        return
    waiting = iter(runs)
    with multiprocessing.get_context("spawn").Pool(jobs, initializer=_silence) as pool:
        under_way = [pool.apply_async(_run, run) for run in islice(waiting, jobs * IN_FLIGHT)]
        while under_way:
            yield under_way.pop(0).get()
            under_way += [pool.apply_async(_run, run) for run in islice(waiting, 1)]


def _silence() -> None:
    """An interrupt ends them as a whole, by their parent.

    Thousands of simulated disasters are logged as such; formatting them would take longer than causing them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.disable(logging.CRITICAL)


def _run(seed: int, options: Options) -> tuple[Options, Outcome]:
    return options, simulate(seed, options)


def repeat_command(seed: int, options: Options) -> str:
    """What to type to see this very run."""
    words = ["python -m tests.simulation", f"--seed {seed}", f"--profile {options.profile}", f"--time {options.seconds:g}"]
    if options.members != 3:
        words.append(f"--members {options.members}")
    if options.density != DENSE:
        words.append(f"--density {options.density}")
    if options.ablate:
        words.append(f"--ablate {','.join(sorted(options.ablate))}")
    if options.plant:
        words.append(f"--plant {options.plant}")
    return " ".join([*words, "-v"])
