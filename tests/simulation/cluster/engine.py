"""A node's container engine that only pretends: slow pulls, failed starts, programs that end, and an engine that gives no answer.

The engine is the machine's, its containers outlive agents; what an agent asked for is done though the agent dies meanwhile. Every
container's fate is told to an observer, with its true cause.
"""

import asyncio
from collections.abc import Callable
from random import Random
from typing import Protocol

from msgspec import Struct, structs

from kago.agent.runtime import EngineUnavailable, Observed, Owner, Progress, RuntimeFailed
from kago.core.model.deployment import Runtime
from kago.core.model.pod import Pod
from tests.simulation.cluster.actor import Actor, Clock
from tests.simulation.world import World

EVENT_S = 0.02
"""An engine's event reaches its agent within this."""
LISTED_S = 0.003


class Watchman(Protocol):
    """Who is told what really happens to containers."""

    def started(self, node: str, pod_id: str, ref: str) -> None: ...
    def ended(self, node: str, pod_id: str, ref: str) -> None:
        """By itself."""

    def removed(self, node: str, pod_id: str, ref: str) -> None:
        """Because its agent asked for it."""


class Mood(Struct, frozen=True, kw_only=True):
    """How this node's engine and programs behave while faults happen."""

    pull_s: float = 2.0
    """A pull takes up to this."""
    fails: float = 0.05
    """Share of pulls and starts that fail."""
    ends_after_s: float = 60.0
    """Programs end by themselves after this on average; 0: never."""


CALM = Mood(pull_s=0.5, fails=0.0, ends_after_s=0.0)


class Engine:
    def __init__(self, world: World, node: str, clock: Clock, watchman: Watchman, mood: Mood) -> None:
        self.world = world
        self.node = node
        self.clock = clock
        self.mood = mood
        self.containers: dict[str, Observed] = {}
        self.away = ""
        """"" answers, `refuses` says that it is not there, `hangs` says nothing."""
        self.listener: Callable[[], None] = lambda: None
        self._watchman = watchman
        self._chance: Random = world.random(f"engine/{node}")
        self._made = 0

    def draw(self, most_s: float) -> float:
        return self._chance.uniform(0.1, 1.0) * most_s

    def fails(self) -> bool:
        return self._chance.random() < self.mood.fails

    def of_pod(self, pod_id: str) -> list[Observed]:
        return [one for one in self.containers.values() if one.pod_id == pod_id]

    def run(self, pod: Pod) -> None:
        """Start the pod's container, the one there is or else a new one; nothing where it runs."""
        here = self.of_pod(pod.id)
        if any(one.running for one in here):
            return
        self._made += 1
        ref = here[0].ref if here else f"{self.node}-c{self._made}"
        self.containers[ref] = Observed(
            pod_id=pod.id, runtime=Runtime.DOCKER, ref=ref, run=f"{ref}/{self._made}", running=True, started_at=self.clock.now(),
            grace_s=pod.stop_grace_s,
        )
        self.world.log("runs", self.node, pod.name, ref)
        self.world.counts["containers-started"] += 1
        self._watchman.started(self.node, pod.id, ref)
        self._tell()
        if self.mood.ends_after_s:
            run = self.containers[ref].run
            self.world.after(self._chance.expovariate(1.0 / self.mood.ends_after_s), lambda: self._end(ref, run))

    def _end(self, ref: str, run: str) -> None:
        """The program ends by itself, or is killed for its memory."""
        container = self.containers.get(ref)
        if container is None or container.run != run or not container.running or not self.mood.ends_after_s:
            return
        code = self._chance.choice((0, 1, 137))
        self.containers[ref] = structs.replace(
            container, running=False, finished_at=self.clock.now(), exit_code=code, oom_killed=code == 137
        )
        self.world.log("ends", self.node, ref, code)
        self.world.counts["containers-ended"] += 1
        self._watchman.ended(self.node, container.pod_id, ref)
        self._tell()

    def power_lost(self) -> None:
        """Every container stops, as its machine does."""
        for ref, container in list(self.containers.items()):
            if container.running:
                self.containers[ref] = structs.replace(container, running=False, finished_at=self.clock.now(), exit_code=137)
                self._watchman.ended(self.node, container.pod_id, ref)

    def remove(self, ref: str) -> None:
        container = self.containers.pop(ref, None)
        if container is not None:
            self.world.log("removed", self.node, ref)
            self._watchman.removed(self.node, container.pod_id, ref)
            self._tell()

    def _tell(self) -> None:
        listener = self.listener
        self.world.after(self._chance.uniform(0.0, EVENT_S), lambda: listener())


class SimRuntime:
    """One agent life's view of the engine: `kago.agent.runtime.ContainerRuntime`."""

    kind = Runtime.DOCKER

    def __init__(self, engine: Engine, agent: Actor) -> None:
        self._engine = engine
        self._agent = agent
        self.before_start: Callable[[Pod], None] = lambda pod: None

    async def open(self, owner: Owner, changed: Callable[[], None]) -> None:
        agent, life = self._agent, self._agent.life
        self._engine.listener = lambda: agent.post(changed) if agent.life == life else None

    async def _reach(self, seconds: float) -> None:
        """What a call takes; raises where the engine does not answer."""
        if self._engine.away == "hangs":
            await asyncio.sleep(30.0)
        if self._engine.away:
            raise EngineUnavailable("the engine gives no answer")
        await asyncio.sleep(seconds)

    async def list(self) -> tuple[Observed, ...]:
        await self._reach(LISTED_S)
        return tuple(self._engine.containers.values())

    async def prepare(self, pod: Pod, progress: Progress) -> None:
        engine = self._engine
        progress("Pulling", pod.image)
        await self._reach(engine.draw(engine.mood.pull_s))
        if engine.fails():
            raise RuntimeFailed("ErrImagePull", "the registry is having a day")

    async def start(self, pod: Pod) -> None:
        engine = self._engine
        self.before_start(pod)
        if engine.away:
            await self._reach(0.0)
        if engine.fails():
            raise RuntimeFailed("StartError", "out of something")
        took_s = engine.draw(0.3)
        engine.world.after(took_s / 2, lambda: engine.run(pod))
        await asyncio.sleep(took_s)

    async def remove(self, ref: str, grace_s: float) -> None:
        engine = self._engine
        if engine.away:
            await self._reach(0.0)
        took_s = engine.draw(grace_s if engine.fails() else 0.3)
        engine.world.after(took_s * 0.9, lambda: engine.remove(ref))
        await asyncio.sleep(took_s)

    async def last_output(self, ref: str) -> str:
        return ""

    async def close(self) -> None:
        return
