"""Servers replaced, moved, added and removed under load: `python -m tests.e2e.members` as a test."""

import asyncio
from pathlib import Path

import pytest

from tests.e2e.harness import Harness
from tests.e2e.members import change_servers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def test_servers_change_under_load_and_nothing_is_lost_or_touched(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    try:
        harness.bring_up()
        outcome = asyncio.run(change_servers(harness))
    finally:
        harness.close()
    print(outcome)
    assert outcome.lost == ()
    assert not outcome.touched
    assert outcome.acknowledged > 50
