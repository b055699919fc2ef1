"""A secured cluster as its administrator sets it up, on machines of their own, with everything on the wire and every log looked at."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kago.cli.local import KagoProcess, environments
from tests.e2e.harness import SLEEPER
from tests.e2e.netns import Network, why_none

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(why_none()), reason=f"no machines of their own: {why_none()}"),
]

SERVERS = ("s1", "s2", "s3")
AGENTS = ("a1", "a2")
WAIT_S = 60.0
LISTENER = """
import socket, sys
heard = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(3))
heard.bind(("eth0", 0))
out = open(sys.argv[1], "wb", buffering=0)
while True:
    out.write(heard.recv(65536))
"""
"""Writes down every packet of a machine."""


class Secured:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.network = Network((*SERVERS, *AGENTS, "user"))
        at = self.network.addresses
        self.urls = {server: f"https://{at[server]}:8080" for server in SERVERS}
        self.prefix = f"sec{time.time_ns() % 10**8}"
        self.processes: dict[str, KagoProcess] = {}
        self._listeners: list[subprocess.Popen[bytes]] = []
        self.peers = ",".join(at[server] for server in SERVERS)
        for server in SERVERS:
            words = ["serve", "--host", at[server], "--peers", self.peers, "--address", at[server]]
            self._add(server, words, "server" if server != "s1" else "")
        for agent in AGENTS:
            words = ["agent", "--name", f"{self.prefix}-{agent}", "--master", ",".join(self.urls.values()), "--address", at[agent]]
            self._add(agent, [*words, "--runtime", "process"], "agent")

    def _add(self, machine: str, words: list[str], token: str) -> None:
        process = KagoProcess(machine, [*words, "--data-dir", str(self.directory / machine)], self.directory / f"{machine}.log")
        process.prefix = self.network.inside(machine)
        if token:
            process.environment["KAGO_TOKEN_FILE"] = str(self.directory / "tokens" / token)
        self.processes[machine] = process

    def secret(self, role: str) -> str:
        return (self.directory / "tokens" / role).read_text().strip().rpartition(".")[2]

    def set_up(self) -> None:
        self.network.up()
        for machine in (*SERVERS, *AGENTS):
            capture = [*self.network.inside(machine), sys.executable, "-c", LISTENER, str(self.directory / f"{machine}.packets")]
            self._listeners.append(subprocess.Popen(capture))
        words = ["cluster", "init", "--data-dir", str(self.directory / "s1"), "--tokens-to", str(self.directory / "tokens")]
        made = self.kago(*words, on="s1")
        assert [line.split()[0] for line in made.splitlines()] == ["server", "agent", "read", "admin"]
        # All at once, the first among them: who joins waits for it.
        for process in self.processes.values():
            process.start()
        admin = str(self.directory / "tokens" / "admin")
        words = ["context", "add", "prod", "--use", "-s", ",".join(self.urls.values()), "--token-file", admin]
        self.until("a context", lambda: self.tried(*words))

    def tear_down(self) -> None:
        try:
            for process in self.processes.values():
                process.kill()
            for listener in self._listeners:
                listener.kill()
                listener.wait()
            for pid in self.pods():
                subprocess.run(["kill", "-9", str(pid)], check=False)
        finally:
            self.network.down()

    def run(self, *words: str, on: str = "user", stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        own = {name: value for name, value in os.environ.items() if not name.startswith("KAGO_")}
        own |= {"XDG_CONFIG_HOME": str(self.directory / "config"), **environment}
        command = [*self.network.inside(on), sys.executable, "-m", "kago.cli.main", *words]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, env=own)

    def tried(self, *words: str) -> bool:
        return self.run(*words).returncode == 0

    def kago(self, *words: str, on: str = "user", code: int = 0, stdin: str = "", **environment: str) -> str:
        done = self.run(*words, on=on, stdin=stdin, **environment)
        assert done.returncode == code, f"kago {' '.join(words)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout + (done.stderr if code else "")

    def get(self, *words: str) -> Any:
        done = self.run(*words, "-o", "json")
        return json.loads(done.stdout) if done.returncode == 0 and done.stdout else []

    def pods(self) -> dict[int, str]:
        found: dict[int, str] = {}
        for pid, environment in environments():
            marks = dict(line.split("=", 1) for line in environment if line.startswith("KAGO_"))
            if marks.get("KAGO_NODE_NAME", "").startswith(f"{self.prefix}-"):
                found[pid] = marks["KAGO_POD_NAME"]
                assert not [name for name in marks if "TOKEN" in name]
        return found

    def until(self, what: str, look: Any) -> float:
        began = time.monotonic()
        while not (true := look()) and time.monotonic() - began < WAIT_S:
            time.sleep(0.1)
        logs = "\n".join(f"--- {process.name}\n{process.last_words(25)}" for process in self.processes.values())
        assert true, f"waited {WAIT_S:.0f} s in vain for {what}\n{logs}"
        return time.monotonic() - began

    def in_step(self) -> bool:
        status = self.get("cluster", "status")
        roles = sorted(member["role"] for member in status["members"]) if status else []
        return roles == ["follower", "follower", "leader"]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Secured]:
    cluster = Secured(tmp_path)
    try:
        cluster.set_up()
        yield cluster
    finally:
        cluster.tear_down()


def ready_nodes(cluster: Secured) -> bool:
    nodes = cluster.get("get", "nodes")
    return [node["status"] for node in nodes] == ["ready", "ready"]


def test_from_nothing_to_a_dead_leader_with_nothing_in_the_clear(cluster: Secured) -> None:
    cluster.until("two nodes", lambda: ready_nodes(cluster))
    cluster.until("three servers in step", cluster.in_step)
    manifest = SLEEPER.format(name="app", replicas=4, seconds=99_999)
    cluster.kago("apply", "-f", "-", "--wait", "--timeout", "60s", stdin=manifest)
    before = cluster.pods()
    assert len(set(before.values())) == 4
    seen = [*Path("/proc").glob("[0-9]*/cmdline")]
    commands = b"".join(path.read_bytes() for path in seen if path.exists())

    # Others, and what they may do.
    reader = cluster.kago("token", "create", "--role", "read", "--ttl", "1h").strip()
    assert "4/4" in cluster.kago("get", "deployments", KAGO_TOKEN=reader)
    assert "needs the role write" in cluster.kago("scale", "app", "5", code=1, KAGO_TOKEN=reader)
    assert "needs the role admin" in cluster.kago("token", "ls", code=1, KAGO_TOKEN=reader)
    nobody = cluster.kago("get", "pods", "-s", cluster.urls["s2"], code=6, XDG_CONFIG_HOME=str(cluster.directory / "none"))
    assert "certificate" in nobody
    plain = cluster.run("get", "pods", "-s", cluster.urls["s2"].replace("https", "http"))
    assert plain.returncode == 6 and "https" in plain.stderr

    # The leader dies; nobody notices but those who look.
    status = cluster.get("cluster", "status")
    leader = next(server for server in SERVERS if status["leader"].startswith(f"{cluster.network.addresses[server]}:"))
    cluster.processes[leader].kill()
    cluster.kago("scale", "app", "5", "--wait", "--timeout", "60s")
    after = cluster.pods()
    assert before.items() <= after.items() and len(set(after.values())) == 5

    # It comes back without a token, and so does an agent.
    cluster.processes[leader].environment.clear()
    cluster.processes[leader].start()
    cluster.until("three servers in step", cluster.in_step)
    cluster.processes["a1"].kill()
    cluster.processes["a1"].environment.clear()
    cluster.processes["a1"].start()
    cluster.until("two nodes", lambda: ready_nodes(cluster))
    assert cluster.pods() == after

    # A node is removed, and with a new token taken in again.
    cluster.kago("delete", "deployment/app")
    cluster.until("no pods", lambda: not cluster.pods())
    cluster.processes["a2"].stop()
    node = f"{cluster.prefix}-a2"
    cluster.until("the node to be down", lambda: {"notready"} & {node["status"] for node in cluster.get("get", "nodes")})
    cluster.kago("delete", f"node/{node}")
    cluster.processes["a2"].environment.clear()
    cluster.processes["a2"].start()
    cluster.until("it to be refused", lambda: not cluster.processes["a2"].running)
    assert "was removed from this cluster" in cluster.processes["a2"].last_words(50)
    token = cluster.directory / "tokens" / "again"
    token.write_text(cluster.kago("token", "create"))
    cluster.processes["a2"].environment["KAGO_TOKEN_FILE"] = str(token)
    cluster.processes["a2"].start()
    cluster.until("two nodes", lambda: ready_nodes(cluster))

    # Neither the wire nor a log nor a command line ever held a secret; the wire nothing at all that can be read.
    secrets = [cluster.secret(role).encode() for role in ("server", "agent", "admin", "again")] + [reader.rpartition(".")[2].encode()]
    logs = b"".join(path.read_bytes() for path in cluster.directory.glob("*.log"))
    heard = [path.read_bytes() for path in cluster.directory.glob("*.packets")]
    packets = b"".join(heard)
    assert len(heard) == len(cluster.processes) and min(map(len, heard)) > 20_000 and logs and commands, "a wire not heard proves nothing"
    for secret in secrets:
        assert secret not in logs and secret not in packets and secret not in commands
    for word in (b"HTTP/1.1 200", b"heartbeat", b"deployment", b"/bin/sleep", b"RegisterNode", b"PRIVATE KEY"):
        assert word not in packets, word
    assert "Traceback" not in logs.decode(errors="replace")
