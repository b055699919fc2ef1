"""Every server lost for good, and one begun again from a backup: the agents come back to it, and what it knows goes on running."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from kago.core.state.backup import INDEX_LEAP, decode
from tests.e2e.harness import LOOPBACK, SLEEPER, Harness

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Harness]:
    harness = Harness(tmp_path)
    try:
        harness.bring_up()
        yield harness
    finally:
        harness.close()


def test_all_servers_lost_and_begun_again_from_a_backup(cluster: Harness, tmp_path: Path) -> None:
    cluster.apply("kept", replicas=4)
    cluster.apply("deleted-later", replicas=1)
    kept = cluster.processes_of("kept")
    file = tmp_path / "state.backup"
    assert "2 deployments, 5 pods (5 ready), 2 nodes (2 ready)" in cluster.kago("snapshot", "save", str(file))
    cluster.kago("snapshot", "save", str(file), code=5)
    assert "deleted-later" in cluster.kago("snapshot", "inspect", str(file))
    saved = decode(file.read_bytes()).header

    cluster.kago("delete", "deleted-later")
    cluster.until("its process to end", lambda: not cluster.processes_of("deleted-later"))
    cluster.apply("made-later", replicas=2)
    cluster.kago("scale", "kept", "5", "--wait")
    for server in cluster.servers[:2]:
        server.kill()
    cluster.kago("snapshot", "save", str(tmp_path / "later.backup"), servers=[cluster.urls[2]], code=6)
    assert "made-later" not in cluster.kago("snapshot", "inspect", str(file))
    cluster.kago("snapshot", "save", "--stale", str(tmp_path / "later.backup"), servers=[cluster.urls[2]])
    assert "made-later" in cluster.kago("snapshot", "inspect", str(tmp_path / "later.backup"))
    for server in cluster.servers:
        server.kill()
        shutil.rmtree(cluster.directory / server.name)
    before = cluster.processes_of("kept")
    assert before.items() > kept.items()

    first, port, raft = cluster.servers[0], cluster.ports.api[0], cluster.ports.raft[0]
    data = str(cluster.directory / first.name)
    address = f"{LOOPBACK}:{raft}"
    cluster.kago("snapshot", "restore", str(file), "--data-dir", data, "--port", str(port), "--address", address)
    cluster.kago("snapshot", "restore", str(file), "--data-dir", data, "--port", str(port), "--address", address, code=5)
    first.arguments = ("serve", "--host", LOOPBACK, "--port", str(port), "--address", address, "--data-dir", data)
    first.start()
    ready = {"deleted-later": 1, "kept": 4}

    def as_saved() -> bool:
        return {one["name"]: one["ready_replicas"] for one in cluster.get("/deployments", server=0)} == ready

    cluster.until("what was saved to run", as_saved)
    cluster.until("what the state does not know to end", lambda: not cluster.processes_of("made-later"))
    cluster.until("the surplus to end", lambda: len(cluster.processes_of("kept")) == 4)
    assert cluster.processes_of("kept") == kept
    assert {pod["restarts"] for pod in cluster.pods("kept")} == {0}
    now = cluster.cluster(server=0)
    assert (now["cluster_id"], len(now["members"])) == (saved.cluster_id, 1)
    assert now["index"] > saved.index + INDEX_LEAP
    cluster.kago("apply", "-f", "-", "--wait", stdin=SLEEPER.format(name="new", replicas=1, seconds=4444), servers=[cluster.urls[0]])
