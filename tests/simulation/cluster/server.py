"""A simulated control-plane server: the replica's process, and in it everything of `kago.server` but the sockets."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from kago.config import ServeConfig
from kago.core.model.deployment import Strategy
from kago.core.state.changes import Change
from kago.server.app import Server
from raft.contract import LogStatus, RaftConfig, Reply, StateMachine
from raft.replica import Replica
from tests.simulation.cluster.actor import Clock
from tests.simulation.cluster.api import Api, operation
from tests.simulation.cluster.ledger import Ledger
from tests.simulation.cluster.loop import SimLoop, leave
from tests.simulation.cluster.web import Exchange, Web
from tests.simulation.members import MemberProcess
from tests.simulation.network import Network
from tests.simulation.process import Pace
from tests.simulation.rolls import Rolls
from tests.simulation.world import World


class ServerProcess(MemberProcess):
    """`web.Door`, at the host of its address."""

    def __init__(
        self,
        world: World,
        network: Network,
        ledger: Ledger,
        config: RaftConfig,
        pace: Pace,
        rolls: Rolls,
        *,
        web: Web,
        strategy: Strategy,
        number: int,
    ) -> None:
        super().__init__(world, network, ledger, config, pace, rolls)
        self.clock = Clock(world, number)
        self.server: Server | None = None
        self.loop: SimLoop | None = None
        self.graves: list[SimLoop] = []
        self._strategy = strategy
        self._ledger = ledger
        self._web = web
        self._api: Api | None = None
        web.doors[self.host] = self  # type: ignore[assignment]

    @property
    def host(self) -> str:
        return self.address.partition(":")[0]

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def move(self, address: str) -> None:
        del self._web.doors[self.host]
        super().move(address)
        self._web.doors[self.host] = self  # type: ignore[assignment]

    def _born(self) -> StateMachine:
        self.loop = SimLoop(self._world, self)
        config = ServeConfig(me=self.name, members=(), api_url=self.url, data_dir=Path(), scheduler=self._strategy)
        with self.loop.running():
            self.server = Server(config, clock=self.clock)
            self._api = Api(self.server, self._bug)
        return Watched(self.name, self.server, self._ledger)

    def _opened(self, replica: Replica) -> None:
        super()._opened(replica)
        server, loop = self.server, self.loop
        assert server is not None and loop is not None
        replica.on_message = server.leader.told
        server.store.open(_Log(replica, self._ledger))
        life = self.life
        with loop.running():
            for name, part in (("leader", server.leader.run()), ("announce", server._announce())):
                loop.create_task(part, name=name).add_done_callback(partial(self._part_ended, life))

    def _part_ended(self, life: int, task: "asyncio.Task[None]") -> None:
        if life == self.life and self.alive and not task.cancelled() and (error := task.exception()) is not None:
            self._world.violate("server-died", f"{self.name}: {task.get_name()}: {type(error).__name__}: {error}")

    def _bug(self, what: str, error: Exception) -> None:
        self._world.violate("answered-500", f"{self.name}: {what}: {type(error).__name__}: {error}")

    def _act(self, then: Callable[[], None]) -> None:
        assert self.loop is not None
        self.loop.enter()
        try:
            super()._act(then)
        finally:
            leave()

    def _role_changed(self, status: LogStatus) -> None:
        super()._role_changed(status)
        if self.server is not None:
            self.server.leader.role_changed(status)

    def die(self, *, power: bool) -> None:
        super().die(power=power)
        if self.loop is not None:
            self.loop.kill()
            self.graves.append(self.loop)
            self.loop = None
            self._web.server_gone(self.name, power=power)

    def bury(self) -> None:
        for loop in (*self.graves, *([self.loop] if self.loop is not None else [])):
            loop.kill()
            loop.bury()
        self.graves.clear()

    def take(self, exchange: Exchange) -> None:
        assert self.loop is not None and self._api is not None
        task = self.loop.create_task(self._api.answer(exchange))
        exchange.cancel = task.cancel  # type: ignore[assignment]


class Watched:
    """The production state machine, each of whose entries is told to the ledger."""

    def __init__(self, name: str, server: Server, ledger: Ledger) -> None:
        self._name = name
        self._machine = server.store.machine
        self._ledger = ledger
        self._told = self._machine.on_changes
        self._changes: tuple[Change, ...] = ()
        self._machine.on_changes = self._changed

    def _changed(self, index: int, changes: tuple[Change, ...]) -> None:
        # Before anybody in the server hears of it, so that what they do about it is judged by it.
        self._changes = changes
        self._ledger.entered(self._name, self._machine, index, changes)
        if self._told is not None:
            self._told(index, changes)

    def apply(self, index: int, entry: bytes) -> bytes:
        self._ledger.entering(entry)
        return self._machine.apply(index, entry)

    def snapshot(self) -> Callable[[], Iterator[bytes]]:
        return self._machine.snapshot()

    def restore(self, index: int, chunks: Iterable[bytes]) -> None:
        self._machine.restore(index, chunks)
        self._ledger.restored_tables(self._name, self._machine, index)


class _Log:
    """The replica as the store has it; notes whose operation each entry is."""

    def __init__(self, replica: Replica, ledger: Ledger) -> None:
        self._replica = replica
        self._ledger = ledger

    def __getattr__(self, name: str) -> Any:
        return getattr(self._replica, name)

    async def propose(self, entry: bytes, *, request_id: bytes | None = None, timeout_s: float = 5.0) -> Reply:
        self._ledger.proposed(entry, operation.get())
        return await self._replica.propose(entry, request_id=request_id, timeout_s=timeout_s)
