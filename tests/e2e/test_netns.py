"""Networks cut: three servers, two agents and a user, each on a machine of its own as far as packets can tell."""

import json
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
    pytest.mark.timeout(150),
    pytest.mark.skipif(bool(why_none()), reason=f"no networks to cut: {why_none()}"),
]

SERVERS = ("s1", "s2", "s3")
AGENTS = ("a1", "a2")
LEFT_WITHIN_S = 3.0


class Machines:
    """The cluster; every request is a curl from the user's machine."""

    def __init__(self, directory: Path) -> None:
        self.network = Network((*SERVERS, *AGENTS, "user"))
        at = self.network.addresses
        self.urls = {server: f"http://{at[server]}:8080" for server in SERVERS}
        peers = ",".join(at[server] for server in SERVERS)
        self.prefix = f"ns{time.time_ns() % 10**8}"
        self.processes: dict[str, KagoProcess] = {}
        for server in SERVERS:
            words = ["serve", "--host", at[server], "--port", "8080", "--peers", peers, "--address", at[server], "--insecure"]
            self.processes[server] = self._process(directory, server, words)
        for agent in AGENTS:
            words = ["agent", "--name", self.node(agent), "--master", ",".join(self.urls.values()), "--address", at[agent]]
            self.processes[agent] = self._process(directory, agent, [*words, "--runtime", "process"])

    def node(self, agent: str) -> str:
        return f"{self.prefix}-{agent}"

    def _process(self, directory: Path, machine: str, words: list[str]) -> KagoProcess:
        process = KagoProcess(machine, [*words, "--data-dir", str(directory / machine)], directory / f"{machine}.log")
        process.prefix = self.network.inside(machine)
        return process

    def start(self) -> None:
        self.network.up()
        for process in self.processes.values():
            process.start()
        self.until("two ready nodes", lambda: [node["status"] for node in self.get("/nodes")] == ["ready", "ready"])
        self.until("three servers in step", lambda: self.roles() == ["follower", "follower", "leader"])

    def stop(self) -> None:
        try:
            for process in self.processes.values():
                process.kill()
            for pods in self.pods().values():
                for pid in pods:
                    subprocess.run(["kill", "-9", str(pid)], check=False)
        finally:
            self.network.down()

    def curl(self, server: str, path: str, *words: str, within_s: float = 10.0) -> tuple[int, Any]:
        """Status (0: no answer) and JSON."""
        command = [*self.network.inside("user"), "curl", "-s", "-m", str(within_s), "-w", "\n%{http_code}"]
        command += [self.urls[server] + path, *words]
        body, _, status = subprocess.run(command, capture_output=True, text=True, check=False).stdout.rpartition("\n")
        return int(status), json.loads(body) if body else None

    def get(self, path: str) -> Any:
        """From the first server that answers in a moment."""
        for server in SERVERS:
            status, found = self.curl(server, path, within_s=2.0)
            if status == 200:
                return found
        return []

    def roles(self) -> list[str]:
        return sorted(member["role"] for member in self.get("/cluster")["members"])

    def leader(self, *, asked: str) -> str:
        """By one server's word; empty where it knows none."""
        _, cluster = self.curl(asked, "/cluster", within_s=2.0)
        address = (cluster or {}).get("leader") or ""
        return next((server for server in SERVERS if address.startswith(f"{self.network.addresses[server]}:")), "")

    def kago(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        command = [*self.network.inside("user"), sys.executable, "-m", "kago.cli.main", *words, "-s", ",".join(self.urls.values())]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)

    def pods(self) -> dict[str, set[int]]:
        """Pids of running pods by pod name, from the machine itself."""
        found: dict[str, set[int]] = {}
        for pid, environment in environments():
            marks = dict(line.split("=", 1) for line in environment if line.startswith("KAGO_"))
            if marks.get("KAGO_NODE_NAME", "").startswith(f"{self.prefix}-"):
                found.setdefault(marks["KAGO_POD_NAME"], set()).add(pid)
        return found

    def until(self, what: str, look: Any, *, timeout_s: float = 30.0) -> float:
        """Seconds until it was so."""
        began = time.monotonic()
        while not (true := look()) and time.monotonic() - began < timeout_s:
            time.sleep(0.05)
        logs = "\n".join(f"--- {process.name}\n{process.last_words(25)}" for process in self.processes.values())
        assert true, f"waited {timeout_s:.0f} s in vain for {what}\n{logs}"
        return time.monotonic() - began


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    machines = Machines(tmp_path)
    try:
        machines.start()
        yield machines
    finally:
        machines.stop()


def test_a_leader_cut_off_and_back(machines: Machines) -> None:
    """Packets to and from it vanish: the others elect, agents and users leave it within seconds, nothing is evicted or restarted."""
    made = machines.kago("apply", "-f", "-", "--wait", "--timeout", "30s", stdin=SLEEPER.format(name="app", replicas=4, seconds=99_999))
    assert made.returncode == 0, made.stderr
    before = machines.pods()
    assert len(before) == 4
    old = machines.leader(asked="s1")
    rest = [server for server in SERVERS if server != old]
    machines.network.cut(old)
    took = machines.until("another leader", lambda: machines.leader(asked=rest[0]) in rest, timeout_s=10)
    print(f"another leader {took:.2f} s after the cut")
    began = time.monotonic()
    scaled = machines.kago("scale", "app", "5", "--wait", "--timeout", "30s")
    took = time.monotonic() - began
    print(f"scaled from 4 to 5 by the command line, the silent server first in its list or not, in {took:.2f} s")
    assert scaled.returncode == 0, scaled.stderr
    assert took < 2 * LEFT_WITHIN_S + 4.0
    assert len(machines.pods()) == 5
    status, _ = machines.curl(rest[1], "/deployments/app", "-X", "PUT", "-H", "Content-Type: application/json", "-d", '{"replicas": 6}')
    assert status == 200
    machines.until("six pods", lambda: len(machines.pods()) == 6)
    time.sleep(7.0)  # longer than a lease
    assert [node["status"] for node in machines.get("/nodes")] == ["ready", "ready"]
    machines.network.join(old)
    took = machines.until("the old leader to follow", lambda: machines.leader(asked=old) in rest, timeout_s=15)
    print(f"the old leader follows {took:.2f} s after it is back")
    status, app = machines.curl(old, "/deployments/app")
    assert (status, app["replicas"], app["ready_replicas"]) == (200, 6, 6)
    assert before.items() <= machines.pods().items()


def test_a_silent_server_is_left_by_the_agents(machines: Machines) -> None:
    """Whichever they use, leader or follower: what is wanted reaches them through another within three seconds."""
    made = machines.kago("apply", "-f", "-", "--wait", "--timeout", "30s", stdin=SLEEPER.format(name="app", replicas=1, seconds=99_999))
    assert made.returncode == 0, made.stderr
    for silent, other in (("s1", "s2"), ("s2", "s3"), ("s3", "s1")):
        machines.network.cut(silent)
        cut = time.monotonic()

        def led(silent: str = silent, other: str = other) -> bool:
            return machines.leader(asked=other) not in ("", silent)

        machines.until("a leader beside it", led)
        wanted = len(machines.pods()) + 1
        words = ["-X", "PUT", "-H", "Content-Type: application/json", "-d", json.dumps({"replicas": wanted})]
        assert machines.curl(other, "/deployments/app", *words)[0] == 200
        machines.until("one pod more", lambda wanted=wanted: len(machines.pods()) == wanted)
        took = time.monotonic() - cut
        print(f"a pod wanted by now runs {took:.2f} s after {silent} fell silent")
        assert took < LEFT_WITHIN_S + 1.0
        machines.network.join(silent)
        machines.until("three servers in step", lambda: machines.roles() == ["follower", "follower", "leader"])


def test_an_agent_cut_off_and_back(machines: Machines) -> None:
    """Its pods run elsewhere within seven seconds and go on where they are until it hears what became of them."""
    manifest = SLEEPER.format(name="app", replicas=4, seconds=99_999) + "  scheduler: least-allocated\n"
    assert machines.kago("apply", "-f", "-", "--wait", "--timeout", "30s", stdin=manifest).returncode == 0
    before = machines.pods()
    machines.network.cut("a1")

    def replaced() -> bool:
        pods = [pod for pod in machines.get("/pods?deployment_name=app") if pod["ready"] and pod["desired"] == "running"]
        return len(pods) == 4 and {pod["node_name"] for pod in pods} == {machines.node("a2")}

    took = machines.until("four pods on the other node", replaced, timeout_s=15)
    print(f"run elsewhere {took:.2f} s after the agent was cut off")
    assert took < 7.0
    assert before.items() <= machines.pods().items()
    machines.network.join("a1")
    took = machines.until("the surplus to stop", lambda: len(machines.pods()) == 4, timeout_s=20)
    print(f"surplus stopped {took:.2f} s after it is back")
    machines.until("both nodes to be ready", lambda: [node["status"] for node in machines.get("/nodes")] == ["ready", "ready"])
    assert machines.pods().keys() == {pod["name"] for pod in machines.get("/pods?deployment_name=app")}
