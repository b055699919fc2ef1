"""Each rule of membership switched off in turn: the simulation must notice, by chance or on a stage set for it."""

import logging
from collections.abc import Callable, Iterator

import pytest

from tests.simulation.member_scenarios import change_before_own_term, learner_counted, two_changes_at_once
from tests.simulation.members import MemberSimulation
from tests.simulation.simulation import Options

SECONDS = 20.0
MORE_SEEDS = range(300, 340)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize(
    ("story", "ablate", "expected"),
    [
        (two_changes_at_once, "serial", {"agreement"}),
        (change_before_own_term, "ownterm", {"agreement"}),
        (learner_counted, "learner", {"two-leaders", "stale-read"}),
    ],
)
@pytest.mark.parametrize("seed", range(2))
def test_a_stage_shows_what_each_rule_is_for(story: Callable[..., set[str]], ablate: str, expected: set[str], seed: int) -> None:
    assert story(seed) == set()
    assert expected <= story(seed, ablate)


@pytest.mark.parametrize(
    ("ablate", "first_seed", "expected"),
    [("onappend", 4, {"commit-without-majority", "agreement", "two-leaders"}), ("removed", 3, {"removed-still-runs"})],
)
def test_chance_finds_a_missing_rule(ablate: str, first_seed: int, expected: set[str]) -> None:
    for seed in (first_seed, *MORE_SEEDS):
        outcome = MemberSimulation(seed, Options(profile="member", seconds=SECONDS, ablate=frozenset([ablate]))).run()
        if expected & set(outcome.kinds):
            return
    pytest.fail(f"nobody noticed in {1 + len(MORE_SEEDS)} runs that {ablate} was off")
