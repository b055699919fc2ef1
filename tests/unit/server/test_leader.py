"""The leader's loop over a log in memory: what it decides, what it forgets, and that it never ends in silence."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from kago.config import ServeConfig
from kago.core.model.deployment import DeploymentSpec, Runtime
from kago.core.model.node import NodeStatus
from kago.core.model.report import Registration
from kago.core.model.resources import Resources
from kago.core.state.commands import CreateDeployment, RegisterNode
from kago.server.leader import Leader
from kago.server.store import Store
from raft import MemoryLog


class Hands:
    """A clock moved by hand."""

    def __init__(self) -> None:
        self.at = 1000.0
        self.broken = False

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        if self.broken:
            raise ZeroDivisionError("a bug in the leader's round")
        return self.at


Scenario = Callable[[Leader, Store, Hands], Awaitable[None]]


def lead(scenario: Scenario) -> None:
    async def all_of_it() -> None:
        clock = Hands()
        store = Store(clock)
        leader = Leader(ServeConfig(me="memory:0", members=("memory:0",), data_dir=Path()), store, clock)
        store.open(MemoryLog(store.machine))
        running = asyncio.create_task(leader.run())
        try:
            await until(lambda: store.tables.cluster.epoch == 1)
            await scenario(leader, store, clock)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(all_of_it())


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(3):
        while not holds():
            await asyncio.sleep(0.005)


async def register(store: Store) -> None:
    await store.submit(
        RegisterNode(
            registration=Registration(
                name="n1", id="id-n1", incarnation=1, address="127.0.0.1", port=8081, capacity=Resources(cpu_millis=1000, memory_mb=1024),
                runtimes=(Runtime.DOCKER,),
            )
        )
    )


def status(store: Store) -> NodeStatus:
    return store.tables.nodes["n1"].status


def test_a_deployment_becomes_pods_on_a_node() -> None:
    async def scenario(leader: Leader, store: Store, clock: Hands) -> None:
        await register(store)
        await store.submit(CreateDeployment(spec=DeploymentSpec(name="web", image="nginx", replicas=2)))
        await until(lambda: [pod.node_name for pod in store.tables.pods.values()] == ["n1", "n1"])

    lead(scenario)


def test_a_silent_node_is_unknown_after_its_lease_and_ready_when_heard() -> None:
    async def scenario(leader: Leader, store: Store, clock: Hands) -> None:
        await register(store)
        for _ in range(9):
            clock.at += 0.5
            await asyncio.sleep(0.26)
        assert status(store) is NodeStatus.READY
        clock.at += 0.6
        await until(lambda: status(store) is NodeStatus.UNKNOWN)
        leader.heard("n1", 1, leaving=False)
        await until(lambda: status(store) is NodeStatus.READY)
        leader.heard("n1", 1, leaving=True)
        await until(lambda: status(store) is NodeStatus.NOTREADY)

    lead(scenario)


def test_a_pause_of_the_leader_itself_evicts_nobody() -> None:
    async def scenario(leader: Leader, store: Store, clock: Hands) -> None:
        await register(store)
        clock.at += 60
        await asyncio.sleep(0.6)
        assert status(store) is NodeStatus.READY

    lead(scenario)


def test_heartbeats_that_cannot_be_read_are_passed_over() -> None:
    async def scenario(leader: Leader, store: Store, clock: Hands) -> None:
        await register(store)
        leader.told("other:1", b"\xc1rubbish")
        assert status(store) is NodeStatus.READY

    lead(scenario)


def test_a_bug_ends_the_leader_loudly() -> None:
    async def all_of_it() -> None:
        clock = Hands()
        store = Store(clock)
        leader = Leader(ServeConfig(me="memory:0", members=("memory:0",), data_dir=Path()), store, clock)
        store.open(MemoryLog(store.machine))
        clock.broken = True
        with pytest.raises(ZeroDivisionError):
            async with asyncio.timeout(3):
                await leader.run()

    asyncio.run(all_of_it())
