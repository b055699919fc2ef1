"""Real `kago` processes on this machine, driven as a user drives them, with every wait a condition and every end by pid."""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import httpx

from kago.cli.local import LOOPBACK, KagoProcess, LocalCluster, environments, run_kago
from kago.core.model.deployment import Runtime

Result = TypeVar("Result")
WAIT_S = 30.0

SLEEPER = """\
kind: Deployment
spec:
  name: {name}
  runtime: process
  replicas: {replicas}
  resources: {{cpu: 50m, memory: 64Mi}}
  command: [/bin/sleep]
  args: ["{seconds}"]
  stop_grace_s: 2
"""
"""A pod that costs nothing; `seconds` stands for what an update changes."""


class Harness(LocalCluster):
    """A cluster, and what tests ask of it."""

    def __init__(
        self, directory: Path, *, servers: int = 3, agents: int = 2, serve_flags: Sequence[str] = (), runtime: Runtime = Runtime.PROCESS
    ) -> None:
        flags = ["--runtime", runtime, "--cpu", "4000", "--memory", "4096"]
        prefix = f"e2e-{time.time_ns() % 10**9}"
        super().__init__(directory, servers=servers, agents=agents, node_prefix=prefix, serve_flags=serve_flags, agent_flags=flags)
        self.http = httpx.Client(trust_env=False, timeout=10.0)
        self.identity: dict[str, str] = {}
        """What a user's verb says of who asks, in its environment."""

    # -- life --------------------------------------------------------------------------------------------------------

    def bring_up(self) -> None:
        """Start whatever does not run and wait until all of it does its part."""
        self.start()
        self.until("three servers in step and every node ready", self.healthy)

    def healthy(self) -> bool:
        members = self.cluster()["members"]
        roles = sorted(member["role"] for member in members)
        nodes = self.get("/nodes")
        return (
            roles == ["follower"] * (len(self.servers) - 1) + ["leader"]
            and sorted(node["name"] for node in nodes if node["status"] == "ready") == sorted(self.node_names)
        )

    def close(self) -> None:
        self.stop()
        self.kill_leftovers()
        self.http.close()

    def diary(self) -> str:
        """The end of every process's log, for a failed test's report."""
        return "\n".join(f"--- {process.name}\n{process.last_words(40)}" for process in self.processes())

    # -- asking ------------------------------------------------------------------------------------------------------

    def kago(self, *arguments: str, code: int = 0, stdin: str = "", servers: Sequence[str] = ()) -> str:
        """Standard output of a verb that must end with `code`."""
        result = run_kago(arguments, environment={"KAGO_SERVER": ",".join(servers or self.urls), **self.identity}, stdin=stdin)
        assert result.returncode == code, f"kago {' '.join(arguments)}: {result.returncode}\n{result.stdout}\n{result.stderr}"
        return result.stdout

    def apply(self, name: str, *, replicas: int = 2, seconds: int = 1_000_000, servers: Sequence[str] = ()) -> str:
        manifest = SLEEPER.format(name=name, replicas=replicas, seconds=seconds)
        return self.kago("apply", "-f", "-", "--wait", "--timeout", "60s", stdin=manifest, servers=servers)

    def request(self, method: str, path: str, *, server: int = 0, body: object = None, **params: str) -> httpx.Response:
        return self.http.request(method, self.urls[server] + path, params=params, json=body)

    def get(self, path: str, *, server: int | None = None, **params: str) -> Any:
        """JSON of the first running server, or of the one given."""
        chosen = server if server is not None else next(n for n, process in enumerate(self.servers) if process.running)
        answer = self.request("GET", path, server=chosen, **params)
        answer.raise_for_status()
        return answer.json()

    def cluster(self, *, server: int | None = None) -> dict[str, Any]:
        found: dict[str, Any] = self.get("/cluster", server=server)
        return found

    def leader(self) -> KagoProcess:
        """Waits until there is one."""
        return self.server_at(self.until("a leader", lambda: self.cluster()["leader"]))

    def followers(self) -> list[KagoProcess]:
        leader = self.leader()
        return [server for server in self.servers if server is not leader]

    def pods(self, deployment: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.get("/pods", deployment_name=deployment)
        return [pod for pod in found if pod["desired"] == "running"]

    def until(self, what: str, look: Callable[[], Result], *, timeout_s: float = WAIT_S) -> Result:
        """The first true value of `look`; a server that does not answer is no value yet."""
        deadline = time.monotonic() + timeout_s
        why = ""
        while time.monotonic() < deadline:
            try:
                found = look()
            except (httpx.HTTPError, StopIteration) as error:
                why = f" ({error})"
            else:
                if found:
                    return found
            time.sleep(0.05)
        raise AssertionError(f"waited {timeout_s:.0f} s in vain for {what}{why}\n{self.diary()}")

    # -- what really runs --------------------------------------------------------------------------------------------

    def processes_of(self, deployment: str) -> dict[str, tuple[int, ...]]:
        """Pids by pod name, from the machine itself: no server is asked."""
        found: dict[str, list[int]] = {}
        for pid, environment in environments():
            marks = dict(line.split("=", 1) for line in environment if line.startswith("KAGO_") and "=" in line)
            name = marks.get("KAGO_POD_NAME", "")
            if marks.get("KAGO_NODE_NAME") in self.node_names and name.rpartition("-")[0] == deployment:
                found.setdefault(name, []).append(pid)
        return {name: tuple(sorted(pids)) for name, pids in found.items()}

    def untouched(self, deployment: str, before: dict[str, tuple[int, ...]]) -> None:
        """No process of the deployment was started, ended or moved since `before`, and no restart is counted."""
        assert self.processes_of(deployment) == before
        restarts = {pod["name"]: pod["restarts"] for pod in self.pods(deployment)}
        assert restarts == dict.fromkeys(before, 0), json.dumps(restarts)


__all__ = ["LOOPBACK", "WAIT_S", "Harness", "KagoProcess"]
