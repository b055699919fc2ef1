"""Docker Swarm as a peer: three managers and two workers, an engine each in a network namespace of its own.

Its API is asked on the engines' unix sockets, with connections kept. Images are not asked for at a registry, else each task would wait
for one that is not there.
"""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from tests.benchmarks.groups import Process, ask, until
from tests.e2e.netns import Network, why_none
from tests.integration import engine

MANAGERS, WORKERS = ("m1", "m2", "m3"), ("w1", "w2")
IMAGE = "busybox:local"
API = "/v1.41"
SLEEP = ("/bin/busybox", "sleep", "86400")


def why_no_swarm() -> str:
    if why := engine.why_none() or why_none():
        return why
    return "" if shutil.which("nsenter") else "not installed: nsenter (util-linux)"


def swarm_place() -> Path:
    """A directory with a short path, as those of unix sockets must be."""
    return Path(tempfile.mkdtemp(prefix="swarm-"))


class Swarm:
    def __init__(self, place: Path, *, workers: bool = True) -> None:
        self.machines = (*MANAGERS, *(WORKERS if workers else ()))
        self.network = Network(self.machines)
        self._place = place
        self._engines = {name: Process(self._command(name), place / f"{name}.log", _OFFLINE) for name in self.machines}

    def __enter__(self) -> Self:
        self.network.up()
        try:
            self._begin()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._engines.values():
            if process.running:
                os.kill(process.pid, 15)
        for process in self._engines.values():
            process.stop()
        self.network.down()
        mounted = [line.split(" ")[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        for point in sorted((point for point in mounted if point.startswith(f"{self._place}/")), reverse=True):
            subprocess.run(["umount", "--lazy", point], check=False)
        shutil.rmtree(self._place, ignore_errors=True)

    def socket_of(self, name: str) -> str:
        return f"{self._place}/{name}/s"

    def call(self, name: str, method: str, path: str, body: object = None) -> Any:
        """JSON, None where there is none. OSError where the answer is no success."""
        return call(self.socket_of(name), method, path, body)

    def leader(self) -> str:
        """Waits until all five are ready and the managers in reach of each other."""

        def look() -> str | None:
            nodes = self.call(MANAGERS[0], "GET", "/nodes")
            managers = [node["ManagerStatus"] for node in nodes if "ManagerStatus" in node]
            if len(nodes) != len(self.machines) or any(node["Status"]["State"] != "ready" for node in nodes):
                return None
            if [manager["Reachability"] for manager in managers] != ["reachable"] * 3:
                return None
            addresses = [manager["Addr"].partition(":")[0] for manager in managers if manager.get("Leader")]
            return next((name for name in MANAGERS if [self.network.addresses[name]] == addresses), None)

        return until("a whole Swarm", look, within_s=120.0)

    def create(self, name: str, replicas: int, restart_delay_s: float | None = None) -> str:
        """The service's id."""
        return str(self.call(self.leader(), "POST", "/services/create", service(name, replicas, restart_delay_s))["ID"])

    def remove_all(self) -> None:
        leader = self.leader()
        for one in self.call(leader, "GET", "/services"):
            self.call(leader, "DELETE", f"/services/{one['ID']}")
        until("all tasks to be gone", lambda: self.call(leader, "GET", "/tasks") == [], within_s=120.0)

    def running(self, service_name: str, *, except_on: str = "") -> int:
        """Tasks that run, and are to."""
        filters = json.dumps({"service": [service_name], "desired-state": ["running"]})
        tasks = self.call(self.leader_now, "GET", f"/tasks?filters={_quoted(filters)}")
        return sum(task["Status"]["State"] == "running" and task.get("NodeID") != except_on for task in tasks)

    def drain_managers(self) -> None:
        """From now on only workers take tasks."""
        leader = self.leader()
        for node in self.call(leader, "GET", "/nodes"):
            if node["Spec"]["Role"] == "manager":
                spec = node["Spec"] | {"Availability": "drain"}
                self.call(leader, "POST", f"/nodes/{node['ID']}/update?version={node['Version']['Index']}", spec)

    def heartbeat(self, seconds: float) -> None:
        swarm = self.call(self.leader(), "GET", "/swarm")
        spec = swarm["Spec"]
        spec["Dispatcher"]["HeartbeatPeriod"] = int(seconds * 1e9)
        self.call(self.leader_now, "POST", f"/swarm/update?version={swarm['Version']['Index']}", spec)

    def node_id(self, name: str) -> str:
        nodes = self.call(self.leader_now, "GET", "/nodes")
        return next(str(node["ID"]) for node in nodes if node["Status"].get("Addr") == self.network.addresses[name])

    def _command(self, name: str) -> list[str]:
        space = self.network.inside(name)[-1]
        home = self._place / name
        home.mkdir()
        places = ["--data-root", f"{home}/root", "--exec-root", f"{home}/exec", "--pidfile", f"{home}/pid", "-H", f"unix://{home}/s"]
        # not ip netns exec, which would hide the cgroups from it
        return ["nsenter", f"--net=/var/run/netns/{space}", "dockerd", *places]

    def _begin(self) -> None:
        for process in self._engines.values():
            process.start()
        content = engine.busybox()
        for name in self.machines:
            until(f"the engine of {name}", lambda name=name: self.call(name, "GET", "/info"), self._engines[name].last_words)  # type: ignore[misc]
            repository, _, tag = IMAGE.partition(":")
            call(self.socket_of(name), "POST", f"/images/create?fromSrc=-&repo={repository}&tag={tag}", content)
        at = self.network.addresses
        first = MANAGERS[0]
        self.call(first, "POST", "/swarm/init", {"ListenAddr": f"{at[first]}:2377", "AdvertiseAddr": at[first]})
        tokens = self.call(first, "GET", "/swarm")["JoinTokens"]
        for name in self.machines[1:]:
            token = tokens["Manager" if name in MANAGERS else "Worker"]
            body = {"ListenAddr": f"{at[name]}:2377", "AdvertiseAddr": at[name], "RemoteAddrs": [f"{at[first]}:2377"], "JoinToken": token}
            self.call(name, "POST", "/swarm/join", body)
        self.leader_now = self.leader()


_OFFLINE: Mapping[str, str] = {"DOCKER_SERVICE_PREFER_OFFLINE_IMAGE": "1"}


def service(name: str, replicas: int, restart_delay_s: float | None = None) -> dict[str, Any]:
    """On the host's network. NUMBER in its environment is replaced by the load generator."""
    container = {"Image": IMAGE, "Command": list(SLEEP), "StopGracePeriod": 100_000_000, "Env": ["V=NUMBER"]}
    task: dict[str, Any] = {"ContainerSpec": container, "Networks": [{"Target": "host"}]}
    if restart_delay_s is not None:
        task["RestartPolicy"] = {"Condition": "any", "Delay": int(restart_delay_s * 1e9)}
    return {"Name": name, "TaskTemplate": task, "Mode": {"Replicated": {"Replicas": replicas}}}


def call(address: str, method: str, path: str, body: object = None) -> Any:
    """One request of an engine."""
    return ask(address, method, API + path, body)


def _quoted(text: str) -> str:
    return "".join(char if char.isalnum() else f"%{ord(char):02X}" for char in text)
