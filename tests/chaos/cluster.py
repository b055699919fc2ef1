"""The cluster under test: real `kago` processes, each on a machine of its own, and what runs on the nodes seen from outside.

Each server keeps its data on a small file system of its own, so that it can be filled; nodes run plain processes, or containers on a
Docker engine each. Nothing about what runs is asked of Kago: /proc and the engines tell.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import docker
from msgspec import Struct

from kago.cli.local import KagoProcess, environments
from tests.chaos.machines import ROOT, FaultyNetwork
from tests.chaos.nursery import Nursery, NurseryProcess
from tests.chaos.user import Answer, Connection, NoAnswer, NotSent, User, Way
from tests.integration.engine import Engine, remove_containers

DISK_MB = 256
"""Far more than a server keeps free for itself; only what is used of it exists."""
SERVERS = ("s1", "s2", "s3")
API_PORT = 8080
HEAL_S = 30.0
LEASE_S = 5.0


class Box(Struct, frozen=True, kw_only=True, order=True):
    """One container that runs, as the machine tells of it; equal values are the same start of the same container."""

    pod_id: str
    pod_name: str
    node: str
    start: str


class NotHealed(AssertionError):
    """What should have come about by itself has not."""


class ChaosCluster:
    """Three servers, `agents` agents, a user. `secured`: with certificates and tokens, everything over TLS."""

    def __init__(
        self,
        directory: Path,
        *,
        agents: int = 2,
        with_docker: bool = False,
        failpoints: bool = False,
        secured: bool = False,
        nursery: Nursery | None = None,
        snapshot_entries: int = 400,
        lease_s: float = LEASE_S,
    ) -> None:
        self.directory = directory
        self.agents = tuple(f"a{n + 1}" for n in range(agents))
        self.network = FaultyNetwork((*SERVERS, *self.agents, "user"))
        at = self.network.addresses
        self.prefix = f"chaos{time.time_ns() % 10**8}"
        self._secured = secured
        self.urls = {server: f"http{'s' if secured else ''}://{at[server]}:{API_PORT}" for server in SERVERS}
        self.ways: dict[str, Way] = {server: Way(host=at[server], port=API_PORT) for server in SERVERS}
        self.engines = {agent: Engine(directory / f"engine-{agent}", "--live-restore") for agent in self.agents} if with_docker else {}
        self._dockers: dict[str, docker.DockerClient] = {}
        self._nursery = nursery
        self.processes: dict[str, KagoProcess] = {}
        peers = ",".join(at[server] for server in SERVERS)
        for server in SERVERS:
            words = ["serve", "--host", at[server], "--peers", peers, "--address", at[server], "--node-lease", f"{lease_s:g}s"]
            self._add(server, [*words, *([] if secured else ["--insecure"])])
        for agent in self.agents:
            words = ["agent", "--name", self.node(agent), "--master", ",".join(self.urls.values()), "--address", at[agent]]
            self._add(agent, [*words, "--runtime", "docker" if with_docker else "process"])
            if with_docker:
                self.processes[agent].environment["DOCKER_HOST"] = self.engines[agent].host
        if failpoints:
            for name, process in self.processes.items():
                process.environment["KAGO_FAILPOINT"] = f"@{self.failpoint(name)}"
        for server in SERVERS:
            self.processes[server].environment["KAGO_SNAPSHOT_ENTRIES"] = str(snapshot_entries)
        self.user: User
        self._control: dict[str, Connection] = {}
        self._logs_read: dict[str, int] = {}

    def _add(self, name: str, words: list[str]) -> None:
        words, log = [*words, "--data-dir", str(self.data_dir(name))], self.directory / f"{name}.log"
        if self._nursery is not None:
            self.processes[name] = NurseryProcess(name, words, log, nursery=self._nursery, space=self.network.space(name))
            return
        process = KagoProcess(name, words, log)
        process.module, process.prefix = "tests.chaos.process", self.network.inside(name)
        process.environment["PYTHONPATH"] = str(ROOT)
        self.processes[name] = process

    def node(self, agent: str) -> str:
        return f"{self.prefix}-{agent}"

    def data_dir(self, name: str) -> Path:
        return self.directory / name / "data"

    def failpoint(self, name: str) -> Path:
        """The file by which its failpoints are armed."""
        return self.directory / f"{name}.failpoint"

    # -- life --------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.network.up()
        self.user = User(self.network.space("user"))
        for server in SERVERS:
            self._make_disk(server)
        if self._secured:
            self._found()
        self._control = {server: Connection(way) for server, way in self.ways.items()}
        for agent, engine in self.engines.items():
            self.data_dir(agent).parent.mkdir(parents=True, exist_ok=True)
            engine.start()
            self._dockers[agent] = engine.client()
        for process in self.processes.values():
            process.start()
        self.until("three servers in step and every node ready", self.healthy)

    def _found(self) -> None:
        """Make the CA on the first server's disk, and tokens for everybody; the first has one, too, for when it has lost its disk."""
        first, tokens = SERVERS[0], self.directory / "tokens"
        words = ["cluster", "init", "--data-dir", str(self.data_dir(first)), "--tokens-to", str(tokens), "--once"]
        subprocess.run([*self.network.inside(first), sys.executable, "-m", "kago.cli.main", *words], check=True, capture_output=True)
        for name, process in self.processes.items():
            process.environment["KAGO_TOKEN_FILE"] = str(tokens / ("server" if name in SERVERS else "agent"))
        token = (tokens / "admin").read_text().strip()
        self.ways.update({server: Way(host=way.host, port=way.port, token=token) for server, way in self.ways.items()})

    def close(self) -> None:
        """Every process, mount and namespace that was made goes."""
        for process in self.processes.values():
            process.kill()
        for box in [] if self.engines else self.boxes():
            with suppress(ProcessLookupError):
                os.killpg(int(box.start.partition("/")[0]), 9)
        for agent, client in self._dockers.items():
            with suppress(Exception):  # an engine in any state may stand in the way of nothing here
                remove_containers(client)
            client.close()
            self.engines[agent].destroy()
        self.user.close()
        self.network.down()
        for server in SERVERS:
            subprocess.run(["umount", "--lazy", str(self.directory / server)], check=False, capture_output=True)

    def _make_disk(self, server: str) -> None:
        image, place = self.directory / f"{server}.disk", self.directory / server
        place.mkdir(exist_ok=True)
        with open(image, "wb") as file:
            file.truncate(DISK_MB * 1024 * 1024)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", str(image)], check=True)
        subprocess.run(["mount", "-o", "loop", str(image), str(place)], check=True)

    def empty_disk(self, server: str) -> None:
        shutil.rmtree(self.data_dir(server))

    # -- asking ------------------------------------------------------------------------------------------------------

    def ask(self, server: str, method: str, path: str, body: object = None, *, timeout_s: float = 4.0) -> Answer | None:
        """One request; None where no answer came."""
        try:
            return self.user.do(self._control[server].ask(method, path, body, timeout_s=timeout_s))
        except (NotSent, NoAnswer):
            return None

    def get(self, path: str, *, servers: Sequence[str] = SERVERS) -> Any:
        """JSON from the first server that answers; None where none does."""
        for server in servers:
            answer = self.ask(server, "GET", path, timeout_s=3.0)
            if answer is not None and answer.status == 200:
                return answer.body
        return None

    def roles(self) -> dict[str, str]:
        """Role of each server by the word of the first that knows a leader."""
        for server in SERVERS:
            answer = self.ask(server, "GET", "/cluster", timeout_s=2.0)
            if answer is not None and answer.status == 200 and answer.body["leader"]:
                at = {f"{self.network.addresses[name]}:7080": name for name in SERVERS}
                return {at[member["address"]]: member["role"] for member in answer.body["members"]}
        return {}

    def leader(self) -> str:
        found: str = self.until("a leader", lambda: next((name for name, role in self.roles().items() if role == "leader"), ""))
        return found

    def followers(self) -> list[str]:
        leader = self.leader()
        return [server for server in SERVERS if server != leader]

    def in_step(self) -> bool:
        """A leader, and each other server following it closely, by each one's own word."""
        for server in SERVERS:
            answer = self.ask(server, "GET", "/ready", timeout_s=2.0)
            if answer is None or answer.status != 200:
                return False
        return sorted(self.roles().values()) == ["follower", "follower", "leader"]

    def healthy(self) -> bool:
        return self.in_step() and self.nodes_ready()

    def nodes_ready(self) -> bool:
        nodes = self.get("/nodes") or []
        return {node["name"] for node in nodes if node["status"] == "ready"} == {self.node(agent) for agent in self.agents}

    def until(self, what: str, look: Callable[[], Any], *, timeout_s: float = HEAL_S) -> Any:
        """The first true value; NotHealed with every log's end."""
        deadline = time.monotonic() + timeout_s
        while not (found := look()):
            if time.monotonic() > deadline:
                logs = "\n".join(f"--- {process.name}\n{process.last_words(25)}" for process in self.processes.values())
                raise NotHealed(f"waited {timeout_s:.0f} s in vain for {what}\n{logs}")
            time.sleep(0.05)
        return found

    def tracebacks(self) -> list[str]:
        """What the processes wrote since the last look that only a bug writes."""
        found: list[str] = []
        for name, process in self.processes.items():
            content = process.log.read_text(errors="replace") if process.log.exists() else ""
            fresh, self._logs_read[name] = content[self._logs_read.get(name, 0) :], len(content)
            at = fresh.find("Traceback")
            if at != -1:
                found.append(f"{name} wrote a traceback: {fresh[at : at + 3000]}")
        return found

    # -- what really runs --------------------------------------------------------------------------------------------

    def docker_of(self, agent: str) -> docker.DockerClient:
        return self._dockers[agent]

    def boxes(self) -> list[Box]:
        """Every container that runs on the nodes."""
        return sorted(self._containers() if self.engines else self._processes())

    def _processes(self) -> list[Box]:
        found: dict[int, Box] = {}
        for pid, environment in environments():
            marks = dict(line.split("=", 1) for line in environment if line.startswith("KAGO_") and "=" in line)
            if not marks.get("KAGO_NODE_NAME", "").startswith(f"{self.prefix}-") or "KAGO_POD_ID" not in marks:
                continue
            with suppress(OSError, IndexError):
                session = os.getsid(pid)
                ticks = Path(f"/proc/{session}/stat").read_text().rpartition(")")[2].split()[19]
                node, name = marks["KAGO_NODE_NAME"], marks["KAGO_POD_NAME"]
                found[session] = Box(pod_id=marks["KAGO_POD_ID"], pod_name=name, node=node, start=f"{session}/{ticks}")
        return list(found.values())

    def _containers(self) -> list[Box]:
        found: list[Box] = []
        for agent, client in self._dockers.items():
            for one in client.api.containers(all=True, filters={"label": "kago.pod"}):
                with suppress(docker.errors.NotFound):
                    there = client.api.inspect_container(one["Id"])
                    start = f"{one['Id'][:12]}/{there['State']['StartedAt'] if there['State']['Running'] else 'stopped'}"
                    labels = there["Config"]["Labels"]
                    found.append(Box(pod_id=labels["kago.pod"], pod_name=labels["kago.pod-name"], node=self.node(agent), start=start))
        return found
