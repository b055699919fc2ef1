"""One cluster for a file of tests, whole again before each of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import Harness


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
