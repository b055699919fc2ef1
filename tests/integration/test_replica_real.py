"""Three replicas on real loopback sockets and real directories, on one event loop."""

import asyncio
import random
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raft import LogError, LogHalted, NoLeader, RaftConfig, Role, StartRefused, open_replica
from raft.addresses import refuse_open_port
from raft.contract import MAX_ENTRY_BYTES
from raft.replica import Replica
from raft.transport import AsyncioWire


class _Clock:
    def monotonic(self) -> float:
        return time.monotonic()


class _Entries:
    def __init__(self) -> None:
        self.entries: list[bytes] = []

    def apply(self, index: int, entry: bytes) -> bytes:
        self.entries.append(entry)
        return str(index).encode()

    def snapshot(self) -> Callable[[], Iterator[bytes]]:
        entries = list(self.entries)
        return lambda: iter(entries)

    def restore(self, index: int, chunks: Iterable[bytes]) -> None:
        self.entries = [bytes(chunk) for chunk in chunks]


class _Group:
    """Members that can be started, stopped hard and started again on their directories."""

    def __init__(self, base: Path, **settings: Any) -> None:
        self.members = tuple(f"127.0.0.1:{port}" for port in _free_ports(3))
        self.base = base
        self.settings = settings
        self.replicas: dict[str, Replica] = {}
        self.machines: dict[str, _Entries] = {}
        self.fatal: dict[str, LogError] = {}

    async def start(self, member: str, *, rejoin: bool = False) -> Replica:
        self.fatal.pop(member, None)
        config = RaftConfig(me=member, members=self.members, rejoin=rejoin, **self.settings)
        machine = self.machines[member] = _Entries()
        directory = self.base / member.replace(":", "_")
        self.replicas[member] = await open_replica(
            config, machine, directory, clock=_Clock(), random=random.Random(), on_fatal=lambda error: self.fatal.__setitem__(member, error)
        )
        return self.replicas[member]

    async def start_all(self) -> None:
        for member in self.members:
            await self.start(member)

    async def stop(self, member: str) -> None:
        """Without handing over, as if it were killed."""
        replica = self.replicas.pop(member)
        if replica.quiesce is not None:
            await replica.quiesce()
        replica.shut()
        replica.on_closed()

    async def leader(self) -> str:
        while True:
            names = {replica.status().leader for replica in self.replicas.values()}
            if len(names) == 1 and None not in names and all(replica.status().caught_up for replica in self.replicas.values()):
                return str(names.pop())
            await asyncio.sleep(0.01)

    async def close(self) -> None:
        for replica in self.replicas.values():
            await replica.close()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _run(base: Path, story: Callable[[_Group], Any], **settings: Any) -> None:
    async def told() -> None:
        group = _Group(base, **settings)
        try:
            async with asyncio.timeout(30):
                await group.start_all()
                await story(group)
        finally:
            await group.close()

    asyncio.run(told())


def test_writes_and_reads_through_every_member(tmp_path: Path) -> None:
    async def story(group: _Group) -> None:
        for i, replica in enumerate(group.replicas.values()):
            reply = await replica.propose(b"%d" % i)
            assert reply.index == i + 1
            for other in group.replicas.values():
                assert await other.barrier() >= reply.index
        replies = await asyncio.gather(*(replica.propose(b"x") for replica in group.replicas.values() for _ in range(200)))
        assert sorted(reply.index for reply in replies) == list(range(4, 604))
        for replica in group.replicas.values():
            await replica.wait_applied(603)
        assert len({tuple(machine.entries) for machine in group.machines.values()}) == 1

    _run(tmp_path, story)


def test_the_leader_lost_and_back_again(tmp_path: Path) -> None:
    async def story(group: _Group) -> None:
        leader = await group.leader()
        for i in range(50):
            await group.replicas[leader].propose(b"%d" % i)
        await group.stop(leader)
        survivor = next(iter(group.replicas.values()))
        began = time.monotonic()
        assert (await survivor.propose(b"next")).index == 51
        assert time.monotonic() - began < 1.0
        back = await group.start(leader)
        assert await back.wait_applied(51) == 51
        assert group.machines[leader].entries[-1] == b"next"

    _run(tmp_path, story)


def test_all_stopped_hard_and_started_again(tmp_path: Path) -> None:
    async def story(group: _Group) -> None:
        await asyncio.gather(
            *(replica.propose(b"x", request_id=b"%016d" % i) for i, replica in enumerate(list(group.replicas.values()) * 10))
        )
        for member in group.members:
            await group.stop(member)
        await group.start_all()
        replica = group.replicas[group.members[1]]
        assert (await replica.propose(b"y")).index == 31
        assert (await replica.propose(b"x", request_id=b"%016d" % 3)).index <= 30

    _run(tmp_path, story)


def test_a_member_long_away_gets_a_snapshot_while_nothing_stops(tmp_path: Path) -> None:
    async def story(group: _Group) -> None:
        leader = await group.leader()
        away = next(member for member in group.members if member != leader)
        await group.stop(away)
        for i in range(300):
            await group.replicas[leader].propose(b"%d" % i * 50)
        while group.replicas[leader].engine.first_index < 100:
            await group.replicas[leader].propose(b"more")
        last = (await group.replicas[leader].propose(b"last")).index
        back = await group.start(away)
        assert await back.wait_applied(last) >= last
        assert group.machines[away].entries == group.machines[leader].entries[: len(group.machines[away].entries)]

    _run(tmp_path, story, snapshot_every_entries=50)


def test_leadership_is_handed_over_at_a_clean_close(tmp_path: Path) -> None:
    async def story(group: _Group) -> None:
        leader = await group.leader()
        survivor = next(replica for member, replica in group.replicas.items() if member != leader)
        await group.replicas.pop(leader).close()
        began = time.monotonic()
        await survivor.propose(b"x")
        assert time.monotonic() - began < 0.5

    _run(tmp_path, story)


def test_an_emptied_directory_is_turned_away_until_it_rejoins(tmp_path: Path) -> None:
    async def story(group: _Group) -> None:
        leader = await group.leader()
        await group.replicas[leader].propose(b"x")
        lost = next(member for member in group.members if member != leader)
        await group.stop(lost)
        directory = group.base / lost.replace(":", "_")
        directory.rename(group.base / "lost")
        await group.start(lost)
        while lost not in group.fatal:
            await asyncio.sleep(0.01)
        assert isinstance(group.fatal[lost], StartRefused) and "--rejoin" in str(group.fatal[lost])
        with pytest.raises(LogHalted):
            await group.replicas[lost].propose(b"y")
        await group.stop(lost)
        directory.rename(group.base / "lost again")
        back = await group.start(lost, rejoin=True)
        assert back.status().role is Role.LEARNER
        while back.status().role is Role.LEARNER:
            await asyncio.sleep(0.01)
        assert await back.barrier() == 1

    _run(tmp_path, story)


def test_the_largest_entry_travels_whole(tmp_path: Path) -> None:
    async def story(group: _Group) -> None:
        sizes = (131_022, 131_072, 262_100, MAX_ENTRY_BYTES)
        for replica in group.replicas.values():
            replies = await asyncio.gather(*(replica.propose(b"x" * size) for size in sizes))
            assert len(replies) == len(sizes)
        for replica in group.replicas.values():
            await replica.wait_applied(12)
        assert len({tuple(map(len, machine.entries)) for machine in group.machines.values()}) == 1

    _run(tmp_path, story)


def test_a_slow_disk_does_not_hold_up_the_event_loop(tmp_path: Path) -> None:
    async def story(group: _Group) -> None:
        leader = group.replicas[await group.leader()]
        sync = leader.journal.sync

        def slow() -> None:
            time.sleep(0.03)
            sync()

        leader.journal.sync = slow  # type: ignore[method-assign]
        await leader.propose(b"it finds out")
        gaps: list[float] = []

        async def tick() -> None:
            while True:
                began = time.monotonic()
                await asyncio.sleep(0.001)
                gaps.append(time.monotonic() - began)

        ticking = asyncio.create_task(tick())
        replies = await asyncio.gather(*(leader.propose(b"%d" % i) for i in range(500)))
        for i in range(10):
            await leader.propose(b"%d" % i)
        ticking.cancel()
        assert [reply.index for reply in replies] == list(range(2, 502))
        assert sorted(gaps)[int(len(gaps) * 0.9)] < 0.02

    _run(tmp_path, story)


def test_a_disk_that_fails_halts_its_member_and_no_other(tmp_path: Path) -> None:
    async def story(group: _Group) -> None:
        leader = await group.leader()

        def full() -> None:
            raise OSError(28, "No space left on device")

        group.replicas[leader].journal.sync = full  # type: ignore[method-assign]
        with pytest.raises(LogHalted, match="No space"):
            await group.replicas[leader].propose(b"x")
        assert "No space" in str(group.fatal[leader])
        survivor = next(replica for member, replica in group.replicas.items() if member != leader)
        began = time.monotonic()
        await survivor.propose(b"y")
        assert time.monotonic() - began < 1.0

    _run(tmp_path, story)


def test_a_lone_member_knows_no_leader(tmp_path: Path) -> None:
    async def told() -> None:
        group = _Group(tmp_path)
        replica = await group.start(group.members[0])
        began = time.monotonic()
        with pytest.raises(NoLeader):
            await replica.propose(b"x", timeout_s=0.5)
        with pytest.raises(NoLeader):
            await replica.barrier(timeout_s=0.5)
        assert time.monotonic() - began < 1.5
        await group.close()

    asyncio.run(told())


def test_rubbish_at_the_port_costs_one_line_and_harms_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def story(group: _Group) -> None:
        leader = await group.leader()
        host, port = leader.split(":")
        for rubbish in (b"GET / HTTP/1.1\r\n\r\n", b"\x00\x00\x00\x03abc", b"\x7f\xff\xff\xff", b"\x00\x00\x00\x02H\xc0", b"\x00" * 64):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(rubbish)
            answer = await reader.read()
            assert len(answer) < 300
            writer.close()
        lines = [
            record
            for record in caplog.records
            if record.name == "raft.transport" and "127.0.0.1" in record.getMessage() and record.levelname == "WARNING"
        ]
        assert len(lines) == 5
        assert (await group.replicas[leader].propose(b"x")).index == 1

    _run(tmp_path, story)


def test_only_loopback_unless_asked(tmp_path: Path) -> None:
    for address in ("127.0.0.1:7080", "localhost:7080", "[::1]:7080"):
        refuse_open_port(address, insecure=False, encrypted=False)
    for address in ("0.0.0.0:7080", "m1:7080", "10.0.0.1:7080"):
        with pytest.raises(StartRefused, match="--insecure"):
            refuse_open_port(address, insecure=False, encrypted=False)
        refuse_open_port(address, insecure=True, encrypted=False)
        refuse_open_port(address, insecure=False, encrypted=True)


def test_a_taken_port_is_an_error_of_the_start() -> None:
    async def told() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            with pytest.raises(OSError, match="in use"):
                wire = AsyncioWire(clock=_Clock(), random=random.Random())
                wire.set_peers({"127.0.0.1:1": "127.0.0.1:1"})
                await wire.listen(address)

    asyncio.run(told())
