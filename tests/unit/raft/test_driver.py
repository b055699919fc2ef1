"""The driver's steps: who asks for one while the journal is synced on a thread gets it as soon as that is over."""

import asyncio
import threading
from typing import Any

from kago.clock import SystemClock
from raft.driver import Driver

ROUNDS = 2
"""Of the event loop, from a call to its step."""


class SlowDisk:
    """As much of a replica as the driver sees, with nothing due by itself."""

    def __init__(self) -> None:
        self.on_wake: Any = None
        self.quiesce: Any = None
        self.dirty = True
        self.works = 0
        self.on_disk = threading.Event()

    def work(self) -> None:
        self.works += 1

    def sync(self) -> None:
        assert self.on_disk.wait(10.0)

    def flush(self) -> None:
        self.dirty = False

    def deadline(self) -> float:
        return float("inf")


def test_what_comes_during_a_slow_sync_is_not_left_waiting() -> None:
    async def scenario() -> int:
        replica = SlowDisk()
        driver = Driver(replica, SystemClock())  # type: ignore[arg-type]
        driver._threaded = True
        driver.wake()
        await _rounds(ROUNDS)
        assert replica.works == 1
        driver.wake()
        await _rounds(ROUNDS)
        assert replica.works == 1, "a step began in the midst of a sync"
        replica.on_disk.set()
        async with asyncio.timeout(5.0):
            while replica.works < 2:
                await asyncio.sleep(0.001)
        await driver.stop()
        return replica.works

    assert asyncio.run(scenario()) == 2


def test_who_comes_a_round_later_shares_the_step() -> None:
    async def scenario() -> int:
        replica = SlowDisk()
        replica.dirty = False
        driver = Driver(replica, SystemClock())  # type: ignore[arg-type]
        driver.wake()
        await _rounds(ROUNDS - 1)
        assert replica.works == 0
        driver.wake()
        await _rounds(2 * ROUNDS)
        await driver.stop()
        return replica.works

    assert asyncio.run(scenario()) == 1


async def _rounds(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)
