"""A majority of the servers gone for good: begun again from the one that is left, and the old majority kept out when it comes back."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import LOOPBACK, Harness, KagoProcess

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Harness]:
    harness = Harness(tmp_path)
    try:
        harness.bring_up()
        yield harness
    finally:
        harness.close()


def test_a_majority_gone_for_good(cluster: Harness) -> None:
    cluster.apply("app", replicas=4)
    before = cluster.processes_of("app")
    left, *gone = cluster.servers
    data = {server.name: cluster.directory / server.name for server in cluster.servers}
    cluster.kago("recover", "--plan", "--data-dir", str(data[left.name]), code=5)  # in use
    left.stop()
    cluster.kago("recover", "--yes", "--data-dir", str(data[left.name]), code=5)  # a majority answers, and leads
    for server in gone:
        server.kill()
    files = {path.name: path.read_bytes() for path in data[left.name].iterdir()}
    shown = cluster.kago("recover", "--plan", "--data-dir", str(data[left.name]))
    assert shown.splitlines()[1].split()[-1] == "(best)"
    assert {path.name: path.read_bytes() for path in data[left.name].iterdir()} == files
    cluster.kago("recover", "--data-dir", str(data[left.name]), code=2)  # nobody is there to be asked
    assert "is a cluster of one" in cluster.kago("recover", "--yes", "--data-dir", str(data[left.name]))

    left.start()  # with the flags it had: its data directory knows better than --peers
    cluster.until("it to lead alone", lambda: [member["role"] for member in cluster.cluster(server=0)["members"]] == ["leader"])
    cluster.until("the agents to be back", lambda: [node["status"] for node in cluster.get("/nodes", server=0)] == ["ready", "ready"])
    assert cluster.kago("scale", "app", "5", "--wait", servers=[cluster.urls[0]]) == "deployment/app scaled\n"
    assert cluster.processes_of("app").items() > before.items()

    for server in gone:  # the old majority: it elects a leader of its own, which nobody follows
        server.start()
    cluster.until("the old majority to stand", lambda: cluster.cluster(server=1)["leader"])
    time.sleep(7.0)  # longer than a node's lease
    assert [node["status"] for node in cluster.get("/nodes", server=0)] == ["ready", "ready"]
    assert cluster.processes_of("app").items() > before.items()
    assert cluster.get("/deployments/app", server=0)["ready_replicas"] == 5
    assert len(cluster.cluster(server=0)["members"]) == 1
    for server in gone:
        server.kill()
        shutil.rmtree(data[server.name])
    grown(cluster, gone[0])
    assert cluster.processes_of("app").items() > before.items()


def grown(cluster: Harness, server: KagoProcess) -> None:
    """One of the others comes back, with an empty directory, the documented way."""
    n = cluster.servers.index(server)
    address = f"{LOOPBACK}:{cluster.ports.raft[n]}"
    joining = ["--join", cluster.urls[0], "--address", address, "--data-dir", str(cluster.directory / server.name)]
    server.arguments = ("serve", "--host", LOOPBACK, "--port", str(cluster.ports.api[n]), *joining)
    server.start()
    cluster.kago("cluster", "add", address, "--timeout", "30s", servers=[cluster.urls[0]])
    assert sorted(member["role"] for member in cluster.cluster(server=0)["members"]) == ["follower", "leader"]
