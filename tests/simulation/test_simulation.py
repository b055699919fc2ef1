"""The gate of every change: a fixed 500 seeds over all profiles, some of them twice, and every kept transcript."""

import logging
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.simulation.__main__ import describe
from tests.simulation.cluster.faults import PROFILES as CLUSTER_PROFILES
from tests.simulation.faults import PROFILES as RAFT_PROFILES
from tests.simulation.runs import MEMBER, profile_of, repeat_command, simulate, simulate_all
from tests.simulation.shrink import load
from tests.simulation.simulation import Options, Outcome

SEEDS = 500
SECONDS = 15.0
GROUPS = 10
MAX_IDLE = 1
"""Of a group: faults that come one upon the other leave a short run no moment to do anything."""
TWICE = 20
JOBS = 2
RARE = 20
"""More rounds over the clusters' profiles, as long as something has not happened yet."""
ROOT = Path(__file__).parents[2]
TRANSCRIPTS = sorted((Path(__file__).parent / "transcripts").glob("*.json"))


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Thousands of simulated disasters are logged as such; formatting them would take longer than causing them."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def options_of(seed: int) -> Options:
    return Options(profile=profile_of(seed, "all"), seconds=SECONDS)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("group", range(GROUPS))
def test_nothing_is_lost_doubled_stale_or_hurt(group: int) -> None:
    seeds = range(group * SEEDS // GROUPS, (group + 1) * SEEDS // GROUPS)
    failed, idle = [], []
    for options, outcome in simulate_all(((seed, options_of(seed)) for seed in seeds), jobs=JOBS):
        if outcome.kinds:
            failed.append(f"{describe(outcome)}\n{outcome.violations}\nrepeat: {repeat_command(outcome.seed, options)}")
        elif _idle(options, outcome):
            idle.append(f"hardly anything happened: {describe(outcome)}")
    assert not failed, "\n".join(failed)
    assert len(idle) <= MAX_IDLE, "\n".join(idle)


def _idle(options: Options, outcome: Outcome) -> bool:
    """Appends come all the time, so a log that took few was not tested; users of a cluster write seldom, but then pods are started."""
    done = outcome.answers.get("done", 0)
    return done + outcome.counts.get("containers-started", 0) < 3 if options.profile in CLUSTER_PROFILES else done < 20


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_profile_does_what_it_says() -> None:
    """A fault that never strikes proves nothing. What is rare has more seeds to happen in."""
    seen: Counter[str] = Counter()
    raft = [*[name for name in RAFT_PROFILES if name != MEMBER] * 2, *["power"] * 4]
    cluster = [*CLUSTER_PROFILES, *CLUSTER_PROFILES, "cluster", "cluster-nodes", MEMBER, MEMBER]
    wanted = {f"fault-{kind}" for weights in (*RAFT_PROFILES.values(), *CLUSTER_PROFILES.values()) for kind in weights}
    wanted |= {"fault-dumpkill", "restores", "snapshots", "graduated", "refusals", "exits-excused"}
    wanted |= {"http-lost", "http-repeated", "containers-ended", "deposed-commands"}
    for seed, profile in enumerate([*raft, *cluster, *[*CLUSTER_PROFILES] * RARE]):
        if seed >= len(raft) + len(cluster) and not wanted - set(+seen):
            break
        seen.update(simulate(seed + 1000, Options(profile=profile, seconds=20.0)).counts)
    assert not wanted - set(+seen), f"never happened: {sorted(wanted - set(+seen))}"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_one_seed_is_one_run() -> None:
    """Byte for byte the same trace in other processes with other hash seeds."""
    traces = []
    for hash_seed in ("1", "77"):
        command = [sys.executable, "-m", "tests.simulation", "--seeds", f"0-{TWICE - 1}", "--time", f"{SECONDS:g}", "-v"]
        answer = subprocess.run(
            command, cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": hash_seed}, capture_output=True, text=True, timeout=300, check=True
        )
        traces.append([line.split(" faults ")[0] for line in answer.stdout.splitlines() if ": seed" in line])
    assert len(traces[0]) == TWICE
    assert traces[0] == traces[1]


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_what_was_found_once(path: Path) -> None:
    """Without a plant it was mended and stays so; with one it is still noticed."""
    transcript = load(path)
    outcome: Outcome = simulate(transcript.seed, transcript.options())
    if transcript.plant:
        assert set(outcome.kinds) & set(transcript.kinds), f"{transcript.plant} is not noticed any more: {describe(outcome)}"
    else:
        assert not outcome.kinds, f"{transcript.note}\n{outcome.violations}"
