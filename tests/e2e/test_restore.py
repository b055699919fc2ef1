"""Every server lost for good, and one begun again from a backup: the agents come back to it, and what it knows goes on running."""

import shutil
from pathlib import Path

import pytest

from kago.core.state.backup import INDEX_LEAP, decode
from tests.e2e.harness import LOOPBACK, SLEEPER, Harness

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


def test_all_servers_lost_and_begun_again_from_a_backup(fresh: Harness, tmp_path: Path) -> None:
    fresh.apply("kept", replicas=4)
    fresh.apply("deleted-later", replicas=1)
    kept = fresh.processes_of("kept")
    file = tmp_path / "state.backup"
    assert "2 deployments, 5 pods (5 ready), 2 nodes (2 ready)" in fresh.kago("snapshot", "save", str(file))
    fresh.kago("snapshot", "save", str(file), code=5)
    assert "deleted-later" in fresh.kago("snapshot", "inspect", str(file))
    saved = decode(file.read_bytes()).header

    fresh.kago("delete", "deleted-later")
    fresh.until("its process to end", lambda: not fresh.processes_of("deleted-later"))
    fresh.apply("made-later", replicas=2)
    fresh.kago("scale", "kept", "5", "--wait")
    for server in fresh.servers[:2]:
        server.kill()
    fresh.kago("snapshot", "save", str(tmp_path / "later.backup"), servers=[fresh.urls[2]], code=6)
    assert "made-later" not in fresh.kago("snapshot", "inspect", str(file))
    fresh.kago("snapshot", "save", "--stale", str(tmp_path / "later.backup"), servers=[fresh.urls[2]])
    assert "made-later" in fresh.kago("snapshot", "inspect", str(tmp_path / "later.backup"))
    for server in fresh.servers:
        server.kill()
        shutil.rmtree(fresh.directory / server.name)
    before = fresh.processes_of("kept")
    assert before.items() > kept.items()

    first, port, raft = fresh.servers[0], fresh.ports.api[0], fresh.ports.raft[0]
    data = str(fresh.directory / first.name)
    address = f"{LOOPBACK}:{raft}"
    fresh.kago("snapshot", "restore", str(file), "--data-dir", data, "--port", str(port), "--address", address)
    fresh.kago("snapshot", "restore", str(file), "--data-dir", data, "--port", str(port), "--address", address, code=5)
    first.arguments = ("serve", "--host", LOOPBACK, "--port", str(port), "--address", address, "--data-dir", data)
    first.start()
    ready = {"deleted-later": 1, "kept": 4}

    def as_saved() -> bool:
        return {one["name"]: one["ready_replicas"] for one in fresh.get("/deployments", server=0)} == ready

    fresh.until("what was saved to run", as_saved)
    fresh.until("what the state does not know to end", lambda: not fresh.processes_of("made-later"))
    fresh.until("the surplus to end", lambda: len(fresh.processes_of("kept")) == 4)
    assert fresh.processes_of("kept") == kept
    assert {pod["restarts"] for pod in fresh.pods("kept")} == {0}
    now = fresh.cluster(server=0)
    assert (now["cluster_id"], len(now["members"])) == (saved.cluster_id, 1)
    assert now["index"] > saved.index + INDEX_LEAP
    fresh.kago("apply", "-f", "-", "--wait", stdin=SLEEPER.format(name="new", replicas=1, seconds=4444), servers=[fresh.urls[0]])
