"""A secured cluster whose majority, or all of it, is gone for good: begun again with its users, tokens and agents, or with a new CA."""

import shutil
from pathlib import Path

import pytest

from kago.security.keyring import DIRECTORY
from tests.e2e.harness import LOOPBACK
from tests.e2e.securing import SecuredHarness

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def nodes_ready(cluster: SecuredHarness) -> bool:
    return [node["status"] for node in cluster.get("/nodes", server=0)] == ["ready", "ready"]


def test_a_majority_gone_for_good(fresh_secured: SecuredHarness) -> None:
    """Recovered from the one that is left, which has the CA: nobody needs a new token, and who was removed stays out."""
    cluster = fresh_secured
    cluster.apply("app", replicas=4)
    before = cluster.processes_of("app")
    reader, revoked = cluster.known_as("read"), cluster.known_as("read")
    cluster.kago("token", "revoke", revoked.split(".")[2])
    left, *gone = cluster.servers
    here = str(cluster.data(0))
    left.stop()
    cluster.kago("recover", "--yes", "--data-dir", here, code=5)  # a majority answers, and leads
    for server in gone:
        server.kill()
    assert "is a cluster of one" in cluster.kago("recover", "--yes", "--data-dir", here)
    left.start()
    cluster.until("it to lead alone", lambda: [member["role"] for member in cluster.cluster(server=0)["members"]] == ["leader"])
    cluster.until("the agents to be back", lambda: nodes_ready(cluster))
    one = [cluster.urls[0]]
    assert cluster.kago("scale", "app", "5", "--wait", "--timeout", "60s", servers=one) == "deployment/app scaled\n"
    assert cluster.processes_of("app").items() > before.items()
    assert cluster.may(reader, "get", "pods", "-s", one[0]) and not cluster.may(revoked, "get", "pods", "-s", one[0])
    # It grows again: on a machine with nothing, by a token made now.
    shutil.rmtree(cluster.data(1))
    token = cluster.directory / "server-token"
    token.write_text(cluster.kago("token", "create", "--role", "server", servers=one))
    address = f"{LOOPBACK}:{cluster.ports.raft[1]}"
    joining = ["--join", one[0], "--address", address, "--data-dir", str(cluster.data(1)), "--token-file", str(token)]
    gone[0].arguments = ("serve", "--host", LOOPBACK, "--port", str(cluster.ports.api[1]), *joining)
    gone[0].start()
    cluster.kago("cluster", "add", address, "--timeout", "60s", servers=one)
    assert sorted(member["role"] for member in cluster.cluster(server=0)["members"]) == ["follower", "leader"]
    assert cluster.processes_of("app").items() > before.items()


def incarnations(cluster: SecuredHarness) -> dict[str, int]:
    return {node["name"]: node["incarnation"] for node in cluster.get("/nodes", server=0)}


def lose_everything(cluster: SecuredHarness, file: Path) -> None:
    cluster.apply("app", replicas=4)
    cluster.kago("snapshot", "save", str(file))
    for server in cluster.servers:
        server.kill()


def restored(cluster: SecuredHarness, file: Path) -> None:
    """The first server's directory, from the backup."""
    first, port = cluster.servers[0], str(cluster.ports.api[0])
    address, data = f"{LOOPBACK}:{cluster.ports.raft[0]}", str(cluster.data(0))
    cluster.kago("snapshot", "restore", str(file), "--data-dir", data, "--port", port, "--address", address)
    first.arguments = ("serve", "--host", LOOPBACK, "--port", port, "--address", address, "--data-dir", data)


def test_all_servers_lost_but_the_ca_was_kept(fresh_secured: SecuredHarness, tmp_path: Path) -> None:
    """Agents and users find the restored cluster by themselves."""
    cluster, file, kept = fresh_secured, tmp_path / "state.backup", tmp_path / "kept"
    reader = cluster.known_as("read")
    lose_everything(cluster, file)
    before = cluster.processes_of("app")
    shutil.copytree(cluster.data(2) / DIRECTORY, kept)
    for n in range(3):
        shutil.rmtree(cluster.data(n))
    shutil.copytree(kept, cluster.data(0) / DIRECTORY)
    restored(cluster, file)
    cluster.servers[0].start()
    cluster.until("the agents to be back", lambda: nodes_ready(cluster))
    assert cluster.may(reader, "get", "pods", "-s", cluster.urls[0])
    assert cluster.kago("scale", "app", "5", "--wait", "--timeout", "60s", servers=[cluster.urls[0]]) == "deployment/app scaled\n"
    assert cluster.processes_of("app").items() > before.items()


def test_all_servers_lost_and_the_ca_too(fresh_secured: SecuredHarness, tmp_path: Path) -> None:
    """A new CA: users and agents need new tokens, old ones count no more, and no container notices."""
    cluster, file = fresh_secured, tmp_path / "state.backup"
    old_reader = cluster.known_as("read")
    lose_everything(cluster, file)
    before = cluster.processes_of("app")
    for n in range(3):
        shutil.rmtree(cluster.data(n))
    restored(cluster, file)
    cluster.init(cluster.data(0))
    cluster.servers[0].arguments += ("--node-lease", "10m")
    cluster.servers[0].start()
    cluster.until("it to lead", lambda: cluster.cluster(server=0)["leader"])
    cluster.until("the first tokens to count", lambda: cluster.may(cluster.known_as("read"), "get", "nodes", "-s", cluster.urls[0]))
    assert not cluster.may(old_reader, "get", "pods", "-s", cluster.urls[0])
    lives = incarnations(cluster)
    for agent in cluster.agents:
        agent.stop()
        agent.start()
    cluster.until("the agents to be back", lambda: nodes_ready(cluster) and not incarnations(cluster).items() & lives.items())
    assert cluster.kago("scale", "app", "5", "--wait", "--timeout", "60s", servers=[cluster.urls[0]]) == "deployment/app scaled\n"
    assert cluster.processes_of("app").items() > before.items()


def test_a_new_ca_for_a_cluster_that_runs(fresh_secured: SecuredHarness) -> None:
    """As README.md has it: the servers stand still for a moment, and no container notices."""
    cluster = fresh_secured
    old_reader = cluster.known_as("read")
    cluster.apply("app", replicas=4)
    before, lives = cluster.processes_of("app"), incarnations(cluster)
    for server in cluster.servers:
        server.stop()
    for n in range(3):
        (cluster.data(n) / DIRECTORY).rename(cluster.data(n).with_name(f"old-tls-{n}"))
    cluster.found()
    usual = [server.arguments for server in cluster.servers]
    for server in cluster.servers:
        server.arguments += ("--node-lease", "10m")
        server.start()
    for agent in cluster.agents:
        agent.stop()
        agent.start()
    cluster.until("the agents to be back", lambda: nodes_ready(cluster) and not incarnations(cluster).items() & lives.items())
    for server, arguments in zip(cluster.servers, usual, strict=True):
        server.stop()
        server.arguments = arguments
        server.start()
    cluster.until("all to be well", cluster.healthy)
    assert not cluster.may(old_reader, "get", "pods") and cluster.may(cluster.known_as("read"), "get", "pods")
    assert cluster.kago("scale", "app", "5", "--wait", "--timeout", "60s") == "deployment/app scaled\n"
    assert cluster.processes_of("app").items() > before.items()
