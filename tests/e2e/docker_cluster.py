"""The end-to-end cluster on Docker engines of its own: what really runs is asked of the engines, never of Kago."""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import httpx
import msgspec
from msgspec import Struct

from kago.core.model.deployment import Runtime, Strategy
from kago.core.model.report import WatchEvent
from tests.e2e.harness import Harness
from tests.integration.engine import Engine, remove_containers

SAMPLE_S = 0.03
LINE_S = 0.5
"""A watch that says nothing for so long is begun again from its last index."""


class Box(Struct, frozen=True, kw_only=True, order=True):
    """A container as its engine tells of it; the same values, the same start of the same container."""

    pod_name: str
    id: str
    started_at: str
    node: str
    deployment: str
    image: str
    running: bool


class Lowest:
    """The fewest containers and ready pods of a deployment while it is watched."""

    def __init__(self) -> None:
        self.running = 1_000_000
        self.ready = 1_000_000
        self.most = 0
        """Containers there were at once, whatever their state."""
        self.samples = 0
        self.told = 0
        """States of the deployment the watch told."""
        self.failures: list[str] = []

    def __str__(self) -> str:
        return f"at least {self.running} running and {self.ready} ready, at most {self.most} there ({self.samples} looks, {self.told} told)"


class DockerCluster(Harness):
    """Three servers and two agents; the agents share one engine, or have one each."""

    def __init__(self, directory: Path, engines: Sequence[Engine], *, serve_flags: Sequence[str] = ()) -> None:
        super().__init__(directory, serve_flags=serve_flags, runtime=Runtime.DOCKER)
        self.engines = tuple(engines)
        self._dockers = tuple(engine.client() for engine in engines)
        for n, agent in enumerate(self.agents):
            agent.environment["DOCKER_HOST"] = engines[n % len(engines)].host

    def close(self) -> None:
        super().close()
        for client in self._dockers:
            client.close()

    def engine_of(self, node: int) -> docker.DockerClient:
        """The engine of that node, as a person on its machine uses it."""
        return self._dockers[node % len(self._dockers)]

    def schedule_by(self, strategy: Strategy) -> None:
        """Stop all servers, to be started anew with that --scheduler; nothing where they have it."""
        if self.servers[0].arguments[-2:] == ("--scheduler", strategy):
            return
        for server in self.servers:
            server.signal(signal.SIGTERM)
        for server in self.servers:
            server.stop()
            words = list(server.arguments)
            if "--scheduler" in words:
                at = words.index("--scheduler")
                del words[at : at + 2]
            server.arguments = (*words, "--scheduler", strategy)

    # -- what really runs --------------------------------------------------------------------------------------------

    def boxes(self, deployment: str = "") -> list[Box]:
        """Every container of this cluster's nodes, in any state."""
        return sorted(box for client in self._dockers for box in self._boxes(client, deployment))

    def running(self, deployment: str) -> list[Box]:
        return [box for box in self.boxes(deployment) if box.running]

    def running_on(self, node: int, deployment: str) -> list[Box]:
        """Of one node, asking its engine only: the other's may be away."""
        return [box for box in self._boxes(self.engine_of(node), deployment) if box.running and box.node == self.node_names[node]]

    def same(self, before: Sequence[Box]) -> None:
        """Each container of `before` is there with the same start, and no other of its deployments; no restart is counted."""
        deployments = sorted({box.deployment for box in before})
        assert [box for name in deployments for box in self.boxes(name)] == list(before)
        restarts = {pod["name"]: pod["restarts"] for name in deployments for pod in self.pods(name)}
        assert restarts == {box.pod_name: 0 for box in before}, restarts

    def remove_all(self) -> None:
        """Containers this cluster left behind, at the end of a test that failed."""
        for client in self._dockers:
            for node in self.node_names:
                remove_containers(client, f"kago.node={node}")

    def _boxes(self, client: docker.DockerClient, deployment: str) -> Iterator[Box]:
        labels = [f"kago.deployment={deployment}"] if deployment else ["kago.deployment"]
        for summary in client.api.containers(all=True, filters={"label": labels}):
            if summary["Labels"].get("kago.node") not in self.node_names:
                continue
            try:
                there: dict[str, Any] = client.api.inspect_container(summary["Id"])
            except docker.errors.NotFound:
                continue  # it went meanwhile
            yield Box(
                pod_name=there["Config"]["Labels"]["kago.pod-name"],
                id=there["Id"],
                started_at=there["State"]["StartedAt"],
                node=there["Config"]["Labels"]["kago.node"],
                deployment=there["Config"]["Labels"]["kago.deployment"],
                image=there["Config"]["Image"],
                running=there["State"]["Running"],
            )

    # -- asking on and on --------------------------------------------------------------------------------------------

    @contextmanager
    def watched(self, deployment: str, *, server: int = 0) -> Iterator[Lowest]:
        """Looks at the engines and follows a server's watch all the while."""
        lowest, stop = Lowest(), threading.Event()
        threads = [
            threading.Thread(target=self._guarded, args=(lowest, look, deployment, server, stop)) for look in (self._sample, self._follow)
        ]
        for thread in threads:
            thread.start()
        try:
            deadline = time.monotonic() + 5
            while not lowest.failures and not (lowest.samples and lowest.told):
                assert time.monotonic() < deadline, "nothing seen of the deployment"
                time.sleep(0.01)
            yield lowest
        finally:
            stop.set()
            for thread in threads:
                thread.join(10)
        assert lowest.failures == []

    def _guarded(
        self, lowest: Lowest, look: Callable[[Lowest, str, int, threading.Event], None], deployment: str, server: int, stop: threading.Event
    ) -> None:
        try:
            look(lowest, deployment, server, stop)
        except Exception as error:  # raised again by the thread that judges
            lowest.failures.append(repr(error))

    def _sample(self, lowest: Lowest, deployment: str, server: int, stop: threading.Event) -> None:
        clients = [engine.client() for engine in self.engines]
        try:
            while not stop.is_set():
                found = [
                    one
                    for client in clients
                    for one in client.api.containers(all=True, filters={"label": f"kago.deployment={deployment}"})
                    if one["Labels"].get("kago.node") in self.node_names
                ]
                lowest.running = min(lowest.running, sum(one["State"] == "running" for one in found))
                lowest.most = max(lowest.most, len(found))
                lowest.samples += 1
                stop.wait(SAMPLE_S)
        finally:
            for client in clients:
                client.close()

    def _follow(self, lowest: Lowest, deployment: str, server: int, stop: threading.Event) -> None:
        index = 0
        with httpx.Client(trust_env=False, timeout=httpx.Timeout(5.0, read=LINE_S)) as client:
            while not stop.is_set():
                params = {"watch": "true", **({"index": str(index)} if index else {})}
                try:
                    with client.stream("GET", f"{self.urls[server]}/deployments", params=params) as answer:
                        answer.raise_for_status()
                        for line in answer.iter_lines():
                            event = msgspec.json.decode(line, type=WatchEvent)
                            if index or event.type == "synced":
                                index = event.index
                            if event.object is not None and event.object.get("name") == deployment:
                                lowest.ready = min(lowest.ready, event.object["ready_replicas"])
                                lowest.told += 1
                            if stop.is_set():
                                return
                except httpx.ReadTimeout:
                    continue  # nothing new: go on from where it was
