"""The leader's loop over a log in memory: what it decides, what it forgets, and that it never ends in silence."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from kago.config import ServeConfig
from kago.core.model.cluster import announced
from kago.core.model.deployment import DeploymentSpec, Runtime
from kago.core.model.node import NodeStatus
from kago.core.model.report import Registration
from kago.core.model.resources import Resources
from kago.core.state.commands import (
    SCHEMA_VERSION,
    ClaimLeadership,
    CreateDeployment,
    RaiseSchema,
    RegisterNode,
    RegisterServer,
    RemoveServer,
)
from kago.core.state.machine import encode_entry
from kago.core.state.rejections import Accepted, Refusal, Rejection
from kago.server.leader import Leader
from kago.server.store import Store
from raft import MemoryLog
from raft.errors import LogHalted


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


class Later(CreateDeployment, frozen=True, kw_only=True):
    """What a later release brings."""

    def needs(self) -> int:
        return SCHEMA_VERSION + 1


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


def test_the_schema_is_raised_once_every_member_has_announced_it() -> None:
    async def all_of_it() -> None:
        clock = Hands()
        store = Store(clock)
        store.open(MemoryLog(store.machine))
        await store.submit(ClaimLeadership(server="first-release", term=1, cluster_id="old"))
        leader = Leader(ServeConfig(me="memory:0", members=("memory:0",), data_dir=Path()), store, clock)
        assert not leader._may_raise_schema(store.status())
        await store.submit(RegisterServer(id="memory:0", api="u", software_version="0.2.0"))
        assert not leader._may_raise_schema(store.status())
        await store.submit(RegisterServer(id="memory:0", api="u", software_version=announced("9", SCHEMA_VERSION)))
        assert leader._may_raise_schema(store.status())
        await store.submit(RaiseSchema(epoch=1, schema=SCHEMA_VERSION))
        assert store.tables.cluster.schema_version == SCHEMA_VERSION
        assert not leader._may_raise_schema(store.status())

    asyncio.run(all_of_it())


def test_what_a_server_would_misread_is_refused_in_words_and_never_logged() -> None:
    async def scenario(leader: Leader, store: Store, clock: Hands) -> None:
        await store.submit(RegisterServer(id="old:7080", api="u", software_version="0.2.0"))
        index = store.tables.index
        reply = await store.submit(Later(spec=DeploymentSpec(name="web", image="nginx")))
        assert isinstance(reply, Rejection)
        assert (reply.refusal, store.tables.index) == (Refusal.OLD_SCHEMA, index)
        assert "old:7080 (0.2.0)" in reply.detail

    lead(scenario)


class Behind(MemoryLog):
    """Of a server that lags: what the others did is applied here when it catches up."""

    def __init__(self, store: Store) -> None:
        super().__init__(store.machine)
        self.missing = [ClaimLeadership(server="other", term=1, cluster_id="c", schema=SCHEMA_VERSION)]

    async def barrier(self, *, timeout_s: float = 5.0) -> int:
        while self.missing:
            await self.propose(encode_entry(self.missing.pop(), 1.0))
        return await super().barrier(timeout_s=timeout_s)


def test_a_server_that_lags_behind_refuses_nothing_that_all_understand_by_now() -> None:
    async def all_of_it() -> None:
        store = Store(Hands())
        store.open(Behind(store))
        command = RemoveServer(epoch=1, id="gone:7080")
        assert store.too_new(command) is not None
        assert isinstance(await store.submit(command), Accepted)

    asyncio.run(all_of_it())


def test_an_entry_of_a_later_release_halts_the_log_in_words() -> None:
    async def scenario(leader: Leader, store: Store, clock: Hands) -> None:
        later = encode_entry(Later(spec=DeploymentSpec(name="web", image="nginx")), 1.0)
        with pytest.raises(LogHalted, match="start this server with the version"):
            store.machine.apply(store.tables.index + 1, later)

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
