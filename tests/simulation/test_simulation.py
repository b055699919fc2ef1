"""The gate of every change to raft/: seeds over all profiles, the same seed twice, and proof that each repair would be missed."""

import logging
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


def run(seed: int, profile: str, seconds: float = SECONDS, ablate: str = "") -> Outcome:
    return Simulation(seed, Options(profile=profile, seconds=seconds, ablate=frozenset(filter(None, ablate.split(","))))).run()


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
    for seed, profile in enumerate(PROFILES):
        for kind, count in run(seed + 1000, profile).counts.items():
            seen[kind] = seen.get(kind, 0) + count
    wanted = {f"fault-{kind}" for weights in PROFILES.values() for kind in weights} | {"restores", "snapshots", "graduated"}
    assert not wanted - set(seen), f"never happened: {sorted(wanted - set(seen))}"
