"""A majority of the servers gone for good: begun again from the one that is left, and the old majority kept out when it comes back."""

import shutil
import time

import pytest

from tests.e2e.harness import LOOPBACK, Harness, KagoProcess

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def test_a_majority_gone_for_good(fresh: Harness) -> None:
    fresh.apply("app", replicas=4)
    before = fresh.processes_of("app")
    left, *gone = fresh.servers
    data = {server.name: fresh.directory / server.name for server in fresh.servers}
    fresh.kago("recover", "--plan", "--data-dir", str(data[left.name]), code=5)  # in use
    left.stop()
    fresh.kago("recover", "--yes", "--data-dir", str(data[left.name]), code=5)  # a majority answers, and leads
    for server in gone:
        server.kill()
    files = {path.name: path.read_bytes() for path in data[left.name].iterdir()}
    shown = fresh.kago("recover", "--plan", "--data-dir", str(data[left.name]))
    assert shown.splitlines()[1].split()[-1] == "(best)"
    assert {path.name: path.read_bytes() for path in data[left.name].iterdir()} == files
    fresh.kago("recover", "--data-dir", str(data[left.name]), code=2)  # nobody is there to be asked
    assert "is a cluster of one" in fresh.kago("recover", "--yes", "--data-dir", str(data[left.name]))

    left.start()  # with the flags it had: its data directory knows better than --peers
    fresh.until("it to lead alone", lambda: [member["role"] for member in fresh.cluster(server=0)["members"]] == ["leader"])
    fresh.until("the agents to be back", lambda: [node["status"] for node in fresh.get("/nodes", server=0)] == ["ready", "ready"])
    assert fresh.kago("scale", "app", "5", "--wait", servers=[fresh.urls[0]]) == "deployment/app scaled\n"
    assert fresh.processes_of("app").items() > before.items()

    for server in gone:  # the old majority: it elects a leader of its own, which nobody follows
        server.start()
    fresh.until("the old majority to stand", lambda: fresh.cluster(server=1)["leader"])
    time.sleep(7.0)  # longer than a node's lease
    assert [node["status"] for node in fresh.get("/nodes", server=0)] == ["ready", "ready"]
    assert fresh.processes_of("app").items() > before.items()
    assert fresh.get("/deployments/app", server=0)["ready_replicas"] == 5
    assert len(fresh.cluster(server=0)["members"]) == 1
    for server in gone:
        server.kill()
        shutil.rmtree(data[server.name])
    grown(fresh, gone[0])
    assert fresh.processes_of("app").items() > before.items()


def grown(fresh: Harness, server: KagoProcess) -> None:
    """One of the others comes back, with an empty directory, the documented way."""
    n = fresh.servers.index(server)
    address = f"{LOOPBACK}:{fresh.ports.raft[n]}"
    joining = ["--join", fresh.urls[0], "--address", address, "--data-dir", str(fresh.directory / server.name)]
    server.arguments = ("serve", "--host", LOOPBACK, "--port", str(fresh.ports.api[n]), *joining)
    server.start()
    fresh.kago("cluster", "add", address, "--timeout", "30s", servers=[fresh.urls[0]])
    assert sorted(member["role"] for member in fresh.cluster(server=0)["members"]) == ["follower", "leader"]
