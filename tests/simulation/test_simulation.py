"""The gate of every change to raft/: seeds over all profiles, and the same seed twice."""

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.simulation.__main__ import describe, profile_of
from tests.simulation.faults import PROFILES
from tests.simulation.simulation import Options, Outcome, Simulation

SEEDS = 100
SECONDS = 20.0
GROUPS = 10
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Thousands of simulated disasters are logged as such; formatting them would take longer than causing them."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def run(seed: int, profile: str) -> Outcome:
    return Simulation(seed, Options(profile=profile, seconds=SECONDS)).run()


@pytest.mark.parametrize("group", range(GROUPS))
def test_nothing_is_lost_doubled_or_stale(group: int) -> None:
    for seed in range(group, SEEDS, GROUPS):
        profile = profile_of(seed, "all")
        outcome = run(seed, profile)
        repeat = f"python -m tests.simulation --seed {seed} --profile {profile} --time {SECONDS:g} -v"
        assert not outcome.kinds, f"{describe(outcome)}\n{outcome.violations}\nrepeat: {repeat}"
        assert outcome.answers.get("done", 0) > 20, f"hardly anything happened: {describe(outcome)}"


def test_every_profile_does_what_it_says() -> None:
    """A fault that never strikes proves nothing."""
    seen: dict[str, int] = {}
    for seed, profile in enumerate([*PROFILES, *PROFILES, *["power"] * 4]):
        for kind, count in run(seed + 1000, profile).counts.items():
            seen[kind] = seen.get(kind, 0) + count
    wanted = {f"fault-{kind}" for weights in PROFILES.values() for kind in weights}
    wanted |= {"fault-dumpkill", "restores", "snapshots", "graduated", "refusals", "exits-excused"}
    assert not wanted - set(seen), f"never happened: {sorted(wanted - set(seen))}"


def test_one_seed_is_one_run() -> None:
    """Byte for byte the same trace in other processes with other hash seeds, for a seed of each profile."""
    here = {(profile_of(seed, "all"), run(seed, profile_of(seed, "all")).trace[:16]) for seed in range(len(PROFILES))}
    for hash_seed in ("1", "77"):
        command = [sys.executable, "-m", "tests.simulation", "--seeds", f"0-{len(PROFILES) - 1}", "--time", f"{SECONDS:g}", "-v"]
        answer = subprocess.run(
            command, cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": hash_seed}, capture_output=True, text=True, timeout=100, check=True
        )
        lines = [line.split() for line in answer.stdout.splitlines() if ": seed" in line]
        assert {(words[0].rstrip(":"), words[4]) for words in lines} == here
