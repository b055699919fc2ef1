"""The replicated log alone: three processes on loopback with real disks; writes, reads, throughput, failover, idle cost.

Run it as `python -m tests.benchmarks.raft_local [--kills 10] [--seconds 3] [--dir DIR]`. Nothing but raft/ runs in the
processes, which look for garbage as seldom as `kago serve` does: these are upper bounds for what is built on it. DIR must lie on a
real disk, or fdatasync costs nothing.
"""

import argparse
import asyncio
import gc
import json
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import uvloop

from kago.server.app import GC_THRESHOLDS
from raft import RaftConfig, open_replica
from raft.errors import LogError
from raft.replica import Replica
from tests.benchmarks.figures import percentile
from tests.benchmarks.groups import free_ports

VALUE = b"x" * 300


class _Clock:
    def monotonic(self) -> float:
        return time.monotonic()


class _Counter:
    """Counts entries; the smallest state machine there is."""

    def __init__(self) -> None:
        self.count = 0

    def apply(self, index: int, entry: bytes) -> bytes:
        self.count += 1
        return b""

    def snapshot(self) -> Callable[[], Iterator[bytes]]:
        count = self.count
        return lambda: iter([count.to_bytes(8, "big")])

    def restore(self, index: int, chunks: Iterable[bytes]) -> None:
        self.count = int.from_bytes(b"".join(chunks), "big")


async def _load(replica: Replica, in_flight: int, seconds: float, *, reads: bool) -> dict[str, Any]:
    samples: list[float] = []
    until = time.monotonic() + seconds

    async def client() -> None:
        while (began := time.monotonic()) < until:
            await (replica.barrier() if reads else replica.propose(VALUE))
            samples.append(time.monotonic() - began)

    cpu, began = time.process_time(), time.monotonic()
    await asyncio.gather(*(client() for _ in range(in_flight)))
    took = time.monotonic() - began
    return {
        "per_s": round(len(samples) / took),
        "p50_ms": round(1000 * percentile(samples, 0.5), 3),
        "p99_ms": round(1000 * percentile(samples, 0.99), 3),
        "cpu": round((time.process_time() - cpu) / took, 2),
    }


async def _serve(me: str, members: tuple[str, ...], data_dir: Path) -> None:
    logging.basicConfig(level=logging.WARNING)
    machine = _Counter()
    config = RaftConfig(me=me, members=members)
    assert not config.ablate, "something is switched off: syncing, perhaps"
    replica = await open_replica(config, machine, data_dir, clock=_Clock())
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        ask = json.loads(line)
        answer: dict[str, Any] = {}
        if ask["do"] == "status":
            status = replica.status()
            answer = {"leader": status.leader, "caught_up": status.caught_up, "applied": status.applied, "count": machine.count}
        elif ask["do"] == "write":
            try:
                answer = {"index": (await replica.propose(VALUE, timeout_s=10)).index}
            except LogError as error:
                answer = {"error": repr(error)}
        elif ask["do"] == "load":
            answer = await _load(replica, ask["in_flight"], ask["seconds"], reads=ask["reads"])
        elif ask["do"] == "idle":
            cpu = time.process_time()
            await asyncio.sleep(ask["seconds"])
            answer = {"cpu %": round(100 * (time.process_time() - cpu) / ask["seconds"], 2)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    await replica.close()


class LogServer:
    """A member in a process of its own, told by lines what to do."""

    def __init__(self, me: str, members: tuple[str, ...], data_dir: Path) -> None:
        self.me, self.members, self.data_dir = me, members, data_dir
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.benchmarks.raft_local",
            "--serve",
            self.me,
            "--members",
            ",".join(self.members),
            "--dir",
            str(self.data_dir),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )

    async def ask(self, **question: Any) -> dict[str, Any]:
        assert self.process is not None and self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(question).encode() + b"\n")
        line = await self.process.stdout.readline()
        return dict(json.loads(line)) if line else {"gone": True}

    async def kill(self) -> None:
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGKILL)
        await self.process.wait()

    async def close(self) -> None:
        assert self.process is not None and self.process.stdin is not None
        self.process.stdin.close()
        await self.process.wait()


async def start_members(base: Path) -> list[LogServer]:
    members = tuple(f"127.0.0.1:{port}" for port in free_ports(3))
    servers = [LogServer(me, members, base / str(i)) for i, me in enumerate(members)]
    for server in servers:
        await server.start()
    return servers


async def find_leader(servers: list[LogServer]) -> LogServer:
    """Waits until all know the same one and have caught up."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        states = [await server.ask(do="status") for server in servers]
        names = {state["leader"] for state in states}
        if len(names) == 1 and None not in names and all(state["caught_up"] for state in states):
            return next(server for server in servers if server.me in names)
        await asyncio.sleep(0.05)
    raise TimeoutError(f"no leader: {states}")


async def _bench(options: argparse.Namespace) -> None:
    base = Path(tempfile.mkdtemp(prefix="raft-bench-", dir=options.dir))
    servers = await start_members(base)
    leader = await find_leader(servers)
    follower = next(server for server in servers if server is not leader)
    for name, server in (("leader", leader), ("follower", follower)):
        for reads in (False, True):
            for in_flight in (1, 16, 256):
                figures = await server.ask(do="load", in_flight=in_flight, seconds=options.seconds, reads=reads)
                print(f"{'reads ' if reads else 'writes'} at the {name}, {in_flight} in flight: {figures}", flush=True)
    idle = await asyncio.gather(*(server.ask(do="idle", seconds=4) for server in servers))
    print("idle:", [figures["cpu %"] for figures in idle], "% of a core each")
    gaps: list[float] = []
    for _ in range(options.kills):
        leader = await find_leader(servers)
        survivor = next(server for server in servers if server is not leader)
        began = time.monotonic()
        await leader.kill()
        answer = await survivor.ask(do="write")
        gaps.append(time.monotonic() - began)
        assert "index" in answer, answer
        await leader.start()
        await find_leader(servers)
    if gaps:
        gaps.sort()
        print(f"leader kill -9 to next acknowledged write, s: min {gaps[0]:.3f}, p50 {gaps[len(gaps) // 2]:.3f}, max {gaps[-1]:.3f}")
    states = [await server.ask(do="status") for server in servers]
    print("applied:", [state["applied"] for state in states])
    for server in servers:
        await server.close()
    shutil.rmtree(base)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--serve")
    parser.add_argument("--members", default="")
    parser.add_argument("--dir", default=None)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    if options.serve:
        uvloop.run(_serve(options.serve, tuple(options.members.split(",")), Path(options.dir)))
    else:
        asyncio.run(_bench(options))


if __name__ == "__main__":
    main()
