"""Each repair of raft/ switched off in turn: the simulation must notice, or it would not notice a bug there either.

Chance meets most of these hazards within a few seeds; each list begins with one known to, so that this stays quick, and goes on because any
change to raft/ reshuffles what a seed does. Where chance would take thousands of seeds the hazard is staged (`scenarios.py`); where a
repair only makes things quicker the effect is measured.
"""

import logging
from collections.abc import Iterator

import pytest

from tests.simulation.plants import PLANTS
from tests.simulation.runs import simulate, simulate_all
from tests.simulation.scenarios import deposed_leader, late_acknowledgement, overtaken_snapshot
from tests.simulation.simulation import Options, Outcome, Simulation

SECONDS = 20.0
MORE_SEEDS = range(300, 360)
MANY_SEEDS = range(300, 800)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def run(seed: int, profile: str, ablate: str) -> Outcome:
    return Simulation(seed, Options(profile=profile, seconds=SECONDS, ablate=frozenset(filter(None, ablate.split(","))))).run()


@pytest.mark.parametrize(
    ("ablate", "profile", "first_seed", "expected"),
    [
        ("commit", "net", 2, {"agreement", "digest"}),
        ("trunc", "net", 17, {"time-travel"}),
        ("rewind,snapold", "net", 1, {"time-travel"}),
        ("align", "dumpkill", 0, {"acknowledged-write-lost"}),
        ("fsync", "none", 0, {"commit-without-majority"}),
        ("selfack", "none", 0, {"commit-without-majority"}),
        ("dedupe", "none", 0, {"applied-twice"}),
        ("readindex", "net", 0, {"stale-read"}),
    ],
)
def test_chance_finds_a_missing_repair(ablate: str, profile: str, first_seed: int, expected: set[str]) -> None:
    for seed in (first_seed, *MORE_SEEDS):
        if expected & set(run(seed, profile, ablate).kinds):
            return
    pytest.fail(f"nobody noticed in {1 + len(MORE_SEEDS)} runs that {ablate} was off")


@pytest.mark.parametrize("seed", range(3))
def test_an_acknowledgement_of_an_earlier_leadership_is_not_counted(seed: int) -> None:
    assert late_acknowledgement(seed) == set()
    assert late_acknowledgement(seed, "term") == {"commit-without-majority"}


@pytest.mark.parametrize("seed", [2, 3])
def test_a_snapshot_overtaken_by_a_newer_one_is_abandoned(seed: int) -> None:
    assert overtaken_snapshot(seed) == set()
    assert overtaken_snapshot(seed, "abandon") == {"start-refused"}


def test_a_deposed_leader_is_told_at_once() -> None:
    told = [deposed_leader(seed) for seed in range(4)]
    left_alone = [deposed_leader(seed, "nudge") for seed in range(4)]
    assert max(told) < 0.2 < 0.4 < min(left_alone), f"{told} against {left_alone}"


def test_without_asking_around_terms_race() -> None:
    seeds = range(3)
    asking = sum(run(seed, "net", "").newest_term for seed in seeds)
    storming = sum(run(seed, "net", "prevote").newest_term for seed in seeds)
    assert storming > 2 * asking, f"{storming} terms without, {asking} with pre-vote"


def test_without_minding_rewinds_entries_travel_again_and_again() -> None:
    seeds = range(32)  # Most of them have no rewind worth mention, some many.
    minding = sum(run(seed, "net", "").counts["sent-bytes"] for seed in seeds)
    rewinding = sum(run(seed, "net", "rewind").counts["sent-bytes"] for seed in seeds)
    assert rewinding > 1.05 * minding, f"{rewinding} bytes without, {minding} with"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", sorted(name for name, plant in PLANTS.items() if not plant.rare))
def test_a_planted_bug_is_found(name: str) -> None:
    """By a seed that is known to, and by another one soon, since that one finds something else after every change of the code."""
    plant = PLANTS[name]
    options = Options(profile=plant.profile, seconds=SECONDS, plant=name)
    if any(simulate(seed, options).kinds for seed in (plant.seed, 0, 1)):
        return
    more = simulate_all(((seed, options) for seed in MANY_SEEDS), jobs=2)
    assert any(outcome.kinds for _, outcome in more), f"nobody noticed in {len(MANY_SEEDS)} runs: {plant.what}"
