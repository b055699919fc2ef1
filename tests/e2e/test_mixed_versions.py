"""The release before and this one beside each other: upgraded server by server under write load, and back before the schema is raised."""

import asyncio
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kago.cli.local import KagoProcess, run_kago
from kago.client.client import Client
from kago.core.model.deployment import DeploymentPatch
from kago.core.state.commands import SCHEMA_VERSION
from tests.e2e.harness import SLEEPER, Harness

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
BEFORE = "07cb980"
"""The release before this one."""
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment of a process that runs the release before."""
    tree = tmp_path_factory.mktemp("release")
    packed = subprocess.run(["git", "-C", str(ROOT), "archive", BEFORE, "kago", "raft"], capture_output=True, check=False)
    if packed.returncode:
        pytest.skip(f"the release before, {BEFORE}, is not in this checkout's history: {packed.stderr.decode().strip()}")
    subprocess.run(["tar", "-x", "-C", str(tree)], input=packed.stdout, check=True)
    return {"PYTHONPATH": str(tree), "PYTHONSAFEPATH": "1"}


@pytest.fixture
def cluster(tmp_path: Path, release: dict[str, str]) -> Iterator[Harness]:
    harness = Harness(tmp_path)
    for process in harness.processes():
        process.environment = dict(release)
    try:
        harness.bring_up()
        yield harness
    finally:
        harness.close()


class Writer:
    """One write after the other, through the client that everybody uses, until it is stopped."""

    def __init__(self, cluster: Harness) -> None:
        cluster.kago("apply", "-f", "-", stdin=SLEEPER.format(name="load", replicas=0, seconds=1))
        self._urls = cluster.urls
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._write()))
        self.done = 0
        self.longest_s = 0.0
        self.failed: BaseException | None = None
        self._thread.start()

    async def _write(self) -> None:
        # Ten seconds: far longer than a hand-over or an election, so a write refused within it was refused for another reason.
        async with Client(self._urls, timeout_s=10.0) as client:
            while not self._stop.is_set():
                began = time.monotonic()
                try:
                    await client.update("load", DeploymentPatch(env={"N": str(self.done + 1)}))
                except Exception as error:
                    self.failed = error
                    return
                self.done += 1
                self.longest_s = max(self.longest_s, time.monotonic() - began)
                await asyncio.sleep(0.01)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        assert self.failed is None, self.failed
        print(f"{self.done} writes, none refused; the longest took {self.longest_s:.2f} s")


def replace(cluster: Harness, process: KagoProcess, environment: dict[str, str]) -> None:
    """Stop it in order and start it again as the other version, as an operator upgrades."""
    process.stop()
    process.environment = dict(environment)
    cluster.bring_up()


def digests(directory: Path, environment: dict[str, str]) -> dict[str, str]:
    """Digest by index, replayed by the code of that version from a copy of a server's data."""
    replayed = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("digests.py")), str(directory)],
        capture_output=True, text=True, check=True, cwd="/", env={"PYTHONPATH": str(ROOT), **environment},
    )  # fmt: skip
    return dict(line.split() for line in replayed.stdout.splitlines())


def test_upgraded_one_by_one_under_load_and_back_before_the_schema_is_raised(
    cluster: Harness, release: dict[str, str], tmp_path: Path
) -> None:
    cluster.apply("app", replicas=4)
    before = cluster.processes_of("app")
    writer = Writer(cluster)
    last = cluster.leader()
    first, second = cluster.followers()
    try:
        for process in (first, second):  # there and back again: nothing the new version wrote so far stands in the way of the old one
            replace(cluster, process, {})
        for process in (first, second):
            replace(cluster, process, release)
        for process in (first, second):
            replace(cluster, process, {})
        assert cluster.cluster(server=cluster.servers.index(first))["schema"] == 1
        mixed_until = writer.done
        last.stop()
        shutil.copytree(cluster.directory / last.name, tmp_path / "of-the-last-old-server")
        replace(cluster, last, {})
        cluster.until("the schema to be raised", lambda: cluster.cluster()["schema"] == SCHEMA_VERSION)
    finally:
        writer.stop()
    cluster.until("every server at one index with one digest", lambda: len({equal(cluster, n) for n in range(3)}) == 1)
    assert cluster.get("/deployments/load")["env"] == {"N": str(writer.done)}
    cluster.untouched("app", before)
    the_olds = digests(tmp_path / "of-the-last-old-server", release)
    shutil.copytree(cluster.directory / first.name, tmp_path / "of-a-new-server")
    the_news = digests(tmp_path / "of-a-new-server", {})
    common = the_olds.keys() & the_news.keys()
    assert len(common) > mixed_until
    assert {index: the_olds[index] for index in common} == {index: the_news[index] for index in common}
    clients_of_the_release_before(cluster, release)
    started_too_late(cluster, cluster.followers()[0], release)
    for agent in cluster.agents:
        replace(cluster, agent, {})
    time.sleep(2.0)  # longer than the agents need to be told anything
    cluster.untouched("app", before)
    cluster.until("every server at one index with one digest", lambda: len({equal(cluster, n) for n in range(3)}) == 1)


def started_too_late(cluster: Harness, server: KagoProcess, release: dict[str, str]) -> None:
    """A server of the release before, started after the schema was raised: it stops and says what to do, and is none the worse for it."""
    server.stop()
    server.environment = dict(release)
    server.start()
    cluster.until("it to stop", lambda: not server.running)
    assert "start it with the version that they run" in server.last_words(60)
    server.environment = {}
    cluster.bring_up()


def equal(cluster: Harness, server: int) -> tuple[int, str]:
    known = cluster.cluster(server=server)
    return known["index"], known["digest"]


def clients_of_the_release_before(cluster: Harness, release: dict[str, str]) -> None:
    """Its agents still serve the new servers, and its command line is still answered."""
    assert cluster.healthy()
    environment = {"KAGO_SERVER": ",".join(cluster.urls), **release}
    listed = run_kago(["get", "pods", "-o", "name"], environment=environment)
    assert (listed.returncode, len(listed.stdout.split())) == (0, 4), listed.stderr
    other = SLEEPER.format(name="other", replicas=2, seconds=7777)
    applied = run_kago(["apply", "-f", "-", "--wait"], environment=environment, stdin=other)
    assert (applied.returncode, applied.stdout) == (0, "deployment/other created\n"), applied.stderr
    assert run_kago(["delete", "other"], environment=environment).returncode == 0
