"""Users: programs that create, change, scale and delete deployments through any server, and read what has become of them."""

import asyncio
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

from kago.client.client import Client
from kago.client.errors import ClientError, Problem
from kago.core.model.deployment import Deployment, DeploymentPatch, DeploymentSpec, RollingUpdate
from kago.core.model.pod import Pod
from kago.core.model.resources import Resources
from tests.simulation.cluster.actor import Actor, Clock
from tests.simulation.cluster.history import NAMES, History, Operation, Shape
from tests.simulation.cluster.web import Http, Web
from tests.simulation.world import World

MAX_REPLICAS = 5
WEIGHTS = {"create": 5, "scale": 6, "roll": 3, "delete": 1, "delete-pod": 1, "get": 3, "list": 2}


class User(Actor):
    def __init__(self, world: World, name: str, web: Web, history: History, number: int, every_s: float) -> None:
        super().__init__(world, name, Clock(world, number))
        self.until = 0.0
        self.resting = False
        """No more changes, reads only."""
        self._web = web
        self._history = history
        self._every_s = every_s
        self._chance: Random = world.random(f"user/{name}")
        self._images = 0
        self._http = Http(web, self)
        self._client: Client | None = None

    @property
    def known_servers(self) -> set[str]:
        return set(self._client.servers) if self._client is not None else set()

    async def main(self) -> None:
        servers = [f"http://{host}" for host in sorted(self._web.doors)]
        self._chance.shuffle(servers)
        client = self._client = self._http.client(servers)
        kinds: dict[str, Callable[[Client], Coroutine[Any, Any, None]]] = {
            "create": self._create, "scale": self._scale, "roll": self._roll, "delete": self._delete, "delete-pod": self._delete_pod,
            "get": self._get, "list": self._list,
        }
        await asyncio.sleep(self._chance.uniform(1.0, 2.0))
        while True:
            kind = self._chance.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
            await kinds["list" if self.resting else kind](client)
            await asyncio.sleep(self._chance.expovariate(1.0 / self._every_s))
            if self._chance.random() < 0.2:
                client.leave()

    def _name(self) -> str:
        return self._chance.choice(NAMES)

    def _image(self) -> str:
        self._images += 1
        return f"app:{self.name}-{self._images}"

    def _begin(self, kind: str, name: str, sent: Shape | None = None) -> Operation:
        operation = self._history.begin(self.name, kind, name, sent)
        self._http.operation, self._http.index = operation.id, None
        return operation

    async def _write(self, operation: Operation, call: Coroutine[Any, Any, Any]) -> None:
        try:
            await call
        except Problem as problem:
            if problem.status < 500 and problem.status != 429:
                self._history.refused(operation, self._http.index, f"{problem.status} {problem.type}")
            else:
                self._history.unknown(operation, f"{problem.status} {problem.type}")
        except ClientError as error:
            self._history.unknown(operation, type(error).__name__)
        else:
            self._history.written(operation, self._http.index)

    async def _create(self, client: Client) -> None:
        name, chance = self._name(), self._chance
        spec = DeploymentSpec(
            name=name, image=self._image(), replicas=chance.randrange(MAX_REPLICAS + 1), resources=Resources(cpu_millis=100, memory_mb=64),
            rolling_update=RollingUpdate(max_surge=chance.choice((0, 1, 2)), max_unavailable=1, min_ready_s=chance.choice((0.0, 1.0))),
            stop_grace_s=chance.choice((1.0, 5.0)),
        )
        await self._write(self._begin("create", name, (spec.replicas, spec.image)), client.create(spec))

    async def _scale(self, client: Client) -> None:
        name, replicas = self._name(), self._chance.randrange(MAX_REPLICAS + 1)
        await self._write(self._begin("update", name, (replicas, "")), client.update(name, DeploymentPatch(replicas=replicas)))

    async def _roll(self, client: Client) -> None:
        name, image = self._name(), self._image()
        await self._write(self._begin("update", name, (-1, image)), client.update(name, DeploymentPatch(image=image)))

    async def _delete(self, client: Client) -> None:
        name = self._name()
        await self._write(self._begin("delete", name), client.delete(Deployment, name))

    async def _delete_pod(self, client: Client) -> None:
        try:
            pods = await client.list(Pod, stale=True)
        except ClientError:
            return
        if pods:
            pod = self._chance.choice(pods)
            await self._write(self._begin("delete-pod", pod.name), client.delete(Pod, pod.id))

    async def _get(self, client: Client) -> None:
        operation = self._begin("get", self._name())
        try:
            found = await client.get(Deployment, operation.name)
        except Problem as problem:
            if problem.status == 404:
                self._history.got(operation, self._http.index, {})
            else:
                self._history.unknown(operation, problem.type)
        except ClientError as error:
            self._history.unknown(operation, type(error).__name__)
        else:
            self._history.got(operation, self._http.index, {found.name: (found.replicas, found.image)})

    async def _list(self, client: Client) -> None:
        operation = self._begin("list", "")
        try:
            found = await client.list(Deployment)
        except ClientError as error:
            self._history.unknown(operation, type(error).__name__)
        else:
            self._history.got(operation, self._http.index, {one.name: (one.replicas, one.image) for one in found})
