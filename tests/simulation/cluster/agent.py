"""A simulated worker node: the production agent's parts on a loop of ours, over an engine that outlives it.

Its notes are on a disk that forgets (`notes.py`); what `kago.agent.app` does with sockets and signals is left out, the rest is wired
as it is there.
"""

import asyncio
import random
from pathlib import Path
from typing import Protocol, cast

from kago.agent.masters import CALL_S, Masters, Superseded
from kago.agent.notes import FILE, Notebook
from kago.agent.worker import Worker
from kago.client.client import Client
from kago.core.model.deployment import Runtime
from kago.core.model.pod import Pod
from kago.core.model.report import Registration
from kago.core.model.resources import Resources
from tests.simulation.cluster.actor import Actor, Clock
from tests.simulation.cluster.engine import Engine, Mood, SimRuntime, Watchman
from tests.simulation.cluster.notes import NotesDir, put
from tests.simulation.cluster.web import Http, Web
from tests.simulation.disk import Platter, SimCrash
from tests.simulation.world import World

OPERATOR_S = 6.0
"""Whoever looks after the machines starts an agent again that has ended as superseded."""


class Auditor(Watchman, Protocol):
    def will_start(self, node: str, pod: Pod, seen_index: int) -> None:
        """An agent that has seen the state at `seen_index` is about to start this pod."""

    def notes_restored(self, node: str) -> None:
        """What its agent did since then it does not know any more, unless a server tells it."""


class AgentNode(Actor):
    def __init__(self, world: World, name: str, web: Web, auditor: Auditor, mood: Mood, number: int) -> None:
        super().__init__(world, name, Clock(world, number))
        self.platter = Platter(name, world.random(f"disk/{name}"), world.log)
        self.powers_off = False
        """Whether its machine goes off with it when it dies at an operation of the disk."""
        self.copies: list[bytes] = []
        """Older contents of its notes, as a backup would have them."""
        self.engine = Engine(world, name, self.clock, auditor, mood)
        self._web = web
        self._auditor = auditor
        self._notebook: Notebook | None = None
        self._outdated = False
        self._masters: Masters | None = None
        self._clients: tuple[Client, ...] = ()

    @property
    def known_servers(self) -> set[str]:
        """Whom both of its halves would ask."""
        return set.intersection(*(set(client.servers) for client in self._clients)) if self._clients else set()

    async def main(self) -> None:
        with Notebook(cast(Path, NotesDir(self.platter))) as notebook:
            self._notebook = notebook
            self._keep_copy()
            try:
                await self._serve(notebook)
            finally:
                if self._notebook is notebook:  # it ended by itself, and so does its notebook
                    self._notebook = None

    async def _serve(self, notebook: Notebook) -> None:
        registration = Registration(
            name=self.name, id=notebook.notes.agent_id, incarnation=notebook.notes.incarnation, address=self.name, port=8081,
            capacity=Resources(cpu_millis=4000, memory_mb=8192), runtimes=(Runtime.DOCKER,),
        )
        given, dice = sorted(self._web.doors), self.world.random(f"agent/{self.name}/{self.life}")
        dice.shuffle(given)
        servers = (*(f"http://{host}" for host in given), *notebook.notes.masters)
        telling = Http(self._web, self).client(servers, timeout_s=CALL_S)
        watching = Http(self._web, self).client(servers, timeout_s=CALL_S)
        self._clients = (telling, watching)
        runtime = SimRuntime(self.engine, self)
        runtime.before_start = lambda pod: self._auditor.will_start(self.name, pod, notebook.notes.index)
        worker = Worker(notebook, {Runtime.DOCKER: runtime}, self.name, self.clock)
        masters = Masters(
            registration, notebook, worker, self.clock, telling=telling, watching=watching, dice=random.Random(dice.random())
        )
        worker.on_reports = masters.news
        self._masters = masters
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(masters.tell())
            tasks.create_task(masters.watch())
            tasks.create_task(worker.run())

    def _turn(self, life: int) -> None:
        try:
            super()._turn(life)
        except SimCrash:
            self._crashed()

    def _crashed(self) -> None:
        self.die()
        if self.powers_off:
            self.lose_power()

    def lose_power(self) -> None:
        """The machine goes off: its containers stop by that, and its disk has what was synced, and some of the rest."""
        self.die()
        self.engine.power_lost()
        self.platter.lose_power()

    def ended(self, error: BaseException | None) -> None:
        if isinstance(error, SimCrash):
            self._crashed()
        elif isinstance(error, BaseExceptionGroup) and error.split(Superseded)[1] is None:
            self.world.log("superseded", self.name)
            self.world.counts["superseded"] += 1
            self.world.after(OPERATOR_S, lambda: None if self.alive else self.start())
        else:
            super().ended(error)

    def die(self) -> None:
        super().die()
        notebook, self._notebook = self._notebook, None
        if notebook is not None:
            notebook.close()  # the kernel gives up the dead process's lock
            notebook.close = lambda: None  # type: ignore[method-assign]

    def _keep_copy(self) -> None:
        self.copies.append(bytes(self.platter.cached[FILE].data))

    def restore_copy(self, copy: bytes) -> None:
        """Somebody puts back an older copy of a stopped agent's directory."""
        put(self.platter, FILE, copy)
        self._outdated, self._masters = True, None
        self._auditor.notes_restored(self.name)

    @property
    def waits(self) -> bool:
        """Whether it runs from an older copy and must wait until its former self's lease is over."""
        self._outdated = self._outdated and not (self.alive and self._masters is not None and self._masters.heard)
        return self._outdated
