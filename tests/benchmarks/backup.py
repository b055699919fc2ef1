"""What a backup of a large state costs: its time, its size, and how long the server's loop is held up meanwhile.

python -m tests.benchmarks.backup --pods 50000
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from kago.config import ServeConfig
from kago.core.model.pod import Desired, Pod, PodStatus
from kago.core.state.backup import decode
from kago.core.state.changes import Put
from kago.server.app import Server
from raft import MemoryLog


async def measure(pods: int, directory: Path) -> None:
    server = Server(ServeConfig(port=0, me="memory:0", members=("memory:0",), api_url="http://127.0.0.1:1", data_dir=directory))
    await server.start(MemoryLog(server.store.machine))
    while not server.store.tables.servers:
        await asyncio.sleep(0.01)
    server.store.tables.absorb(server.store.tables.index, [Put(_pod(n)) for n in range(pods)])
    idle = await _gaps_during(asyncio.sleep(1.0))
    file, began = directory / "x.backup", time.perf_counter()
    command = [sys.executable, "-m", "kago.cli.main", "snapshot", "save", str(file), "--server", server.url]
    busy = await _gaps_during(_run(command))
    took_s = time.perf_counter() - began
    await server.stop()
    began = time.perf_counter()
    assert len(decode(file.read_bytes()).tables.pods) == pods
    read_s = time.perf_counter() - began
    size_mb = file.stat().st_size / 1024**2
    print(f"{pods} pods, {size_mb:.0f} MiB: saved in {took_s:.2f} s, command line and all; checked and read in {read_s:.2f} s")
    for name, gaps in (("before", idle), ("during", busy)):
        print(f"loop held up {name}: p50 {_at(gaps, 0.5):.1f} ms, p99 {_at(gaps, 0.99):.1f} ms, at most {gaps[-1] * 1000:.1f} ms")


async def _gaps_during(work: Coroutine[Any, Any, None]) -> list[float]:
    """Seconds between two turns of a task that sleeps 1 ms, sorted."""
    task = asyncio.create_task(work)
    gaps, last = [], time.perf_counter()
    while not task.done():
        await asyncio.sleep(0.001)
        now = time.perf_counter()
        gaps.append(now - last)
        last = now
    await task
    return sorted(gaps)


async def _run(command: list[str]) -> None:
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
    assert await process.wait() == 0


def _pod(n: int) -> Pod:
    """Stopped, so that nobody decides anything about it."""
    return Pod(
        id=f"id-{n:08d}", name=f"web-{n:06d}", deployment_name="gone", revision=1, created_at=1.0, desired=Desired.STOPPED,
        status=PodStatus.TERMINATING, image="nginx:alpine", env={"A": "b" * 40},
    )  # fmt: skip


def _at(gaps: list[float], share: float) -> float:
    return gaps[int(len(gaps) * share)] * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pods", type=int, default=50_000)
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(measure(parser.parse_args().pods, Path(directory)))


if __name__ == "__main__":
    main()
