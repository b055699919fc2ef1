"""One cluster for a file of tests, whole again before each of them; or one for a single test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import Harness
from tests.e2e.securing import SecuredHarness


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    directory: Path = tmp_path_factory.mktemp("cluster")
    harness = Harness(directory)
    try:
        harness.bring_up()
        yield harness
    finally:
        harness.close()
    assert harness.leftovers() == []


@pytest.fixture
def cluster(running: Harness) -> Harness:
    running.bring_up()
    return running


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Harness]:
    """One for a single test, which leaves it in another shape than it found it."""
    harness = Harness(tmp_path)
    try:
        harness.bring_up()
        yield harness
    finally:
        harness.close()


@pytest.fixture
def fresh_secured(tmp_path: Path) -> Iterator[SecuredHarness]:
    harness = SecuredHarness(tmp_path)
    try:
        harness.found()
        harness.bring_up()
        yield harness
    finally:
        harness.close()
