"""Many agents in one process: the real agent's parts over a runtime that only pretends to run containers.

Everything between the API and the runtime is the product's: registration, heartbeats, watches, notes on disk, plans and reports. Left
out are the agent's own port and its signals. `python -m tests.benchmarks.hollow_nodes` reads a Crowd from its input; what its runtimes
have started and removed so far stands on the last line of its output, a line a second.
"""

import asyncio
import itertools
import random
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import uvloop
from msgspec import Struct

from kago.agent.masters import CALL_S, Masters
from kago.agent.notes import Notebook
from kago.agent.runtime import Observed, Owner, Progress
from kago.agent.worker import Worker
from kago.client.client import Client
from kago.clock import Clock, SystemClock
from kago.core.model.deployment import Runtime
from kago.core.model.pod import Pod
from kago.core.model.report import Registration
from kago.core.model.resources import Resources

SAID_EVERY_S = 1.0
STARTS_PER_S = 20.0
"""Of each process: a thousand agents that begin in one loop at the same moment keep each other from hearing their answers in time."""


class Crowd(Struct, frozen=True, kw_only=True):
    masters: tuple[str, ...]
    names: tuple[str, ...]
    directory: str
    """Of their notes. Real ones lie on as many disks as there are nodes, so these may lie in memory."""
    capacity: Resources = Resources(cpu_millis=4000, memory_mb=8192)


class Counts(Struct, frozen=True, kw_only=True):
    running: int = 0
    started: int = 0
    removed: int = 0


class Pretender:
    """`kago.agent.runtime.ContainerRuntime`: every container starts at once and runs for ever."""

    kind = Runtime.DOCKER

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._changed: Callable[[], None] = lambda: None
        self._numbers = itertools.count()
        self.containers: dict[str, Observed] = {}
        self.started = 0
        self.removed = 0

    async def open(self, owner: Owner, changed: Callable[[], None]) -> None:
        self._changed = changed

    async def list(self) -> tuple[Observed, ...]:
        return tuple(self.containers.values())

    async def prepare(self, pod: Pod, progress: Progress) -> None:
        return

    async def start(self, pod: Pod) -> None:
        if any(one.pod_id == pod.id for one in self.containers.values()):
            return
        ref = f"c{next(self._numbers)}"
        self.containers[ref] = Observed(
            pod_id=pod.id, runtime=self.kind, ref=ref, run=ref, running=True, started_at=self._clock.now(), grace_s=pod.stop_grace_s
        )
        self.started += 1
        self._changed()

    async def remove(self, ref: str, grace_s: float) -> None:
        if self.containers.pop(ref, None) is not None:
            self.removed += 1
            self._changed()

    async def last_output(self, ref: str) -> str:
        return ""

    async def close(self) -> None:
        return


async def serve(crowd: Crowd) -> None:
    """For ever. An agent that may not go on ends all of them: none of that is wanted here."""
    clock = SystemClock()
    runtimes = [Pretender(clock) for _ in crowd.names]
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_tell(runtimes))
        for name, runtime in zip(crowd.names, runtimes, strict=True):
            tasks.create_task(_live(crowd, name, runtime, clock))
            await asyncio.sleep(1 / STARTS_PER_S)


async def _live(crowd: Crowd, name: str, runtime: Pretender, clock: Clock) -> None:
    """`kago.agent.app` without a port and signals."""
    dice = random.Random(name)
    masters_first = list(crowd.masters)
    dice.shuffle(masters_first)

    with Notebook(Path(crowd.directory) / name) as notebook:
        registration = Registration(
            name=name, id=notebook.notes.agent_id, incarnation=notebook.notes.incarnation, address="127.0.0.1", port=8081,
            capacity=crowd.capacity, runtimes=(runtime.kind,), agent_version="hollow",
        )  # fmt: skip
        async with (
            Client(masters_first, timeout_s=CALL_S, clock=clock) as telling,
            Client(masters_first, timeout_s=CALL_S, clock=clock) as watching,
        ):
            worker = Worker(notebook, {runtime.kind: runtime}, name, clock)
            masters = Masters(registration, notebook, worker, clock, telling=telling, watching=watching, dice=dice)
            worker.on_reports = masters.news
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(masters.tell())
                tasks.create_task(masters.watch())
                tasks.create_task(worker.run())


async def _tell(runtimes: list[Pretender]) -> None:
    while True:
        counts = Counts(
            running=sum(len(one.containers) for one in runtimes),
            started=sum(one.started for one in runtimes),
            removed=sum(one.removed for one in runtimes),
        )
        sys.stdout.buffer.write(msgspec.json.encode(counts) + b"\n")
        sys.stdout.buffer.flush()
        await asyncio.sleep(SAID_EVERY_S)


if __name__ == "__main__":
    _, _most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (_most, _most))
    uvloop.run(serve(msgspec.json.decode(sys.stdin.buffer.read(), type=Crowd)))
