"""The short form of `python -m tests.e2e.leader_kills`: five kills."""

import asyncio

import pytest

from tests.e2e.harness import Harness
from tests.e2e.leader_kills import kill_leaders

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def test_five_leader_kills_lose_nothing(cluster: Harness) -> None:
    outcome = asyncio.run(kill_leaders(cluster, 5))
    print(outcome)
    assert outcome.lost == ()
    assert outcome.restarts == 0
    assert outcome.acknowledged > 50
