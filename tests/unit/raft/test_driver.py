"""The driver's steps: who asks for one while the journal is synced on a thread gets it as soon as that is over, and a leader goes on saying
that it leads."""

import asyncio
import threading
from typing import Any

import pytest

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
        self.works = self.beats = 0
        self.on_disk = threading.Event()
        self.outbox = self

    def work(self) -> None:
        self.works += 1

    def sync(self) -> None:
        assert self.on_disk.wait(10.0)

    def flush(self) -> None:
        self.dirty = False

    def deadline(self) -> float:
        return float("inf")

    def beat(self, now: float) -> float:
        self.beats += 1
        return now + 0.01


def test_what_comes_during_a_slow_sync_is_not_left_waiting() -> None:
    async def scenario() -> int:
        replica, driver = _on_a_thread()
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


def test_signs_of_life_go_on_during_a_slow_sync_and_end_with_it() -> None:
    async def scenario() -> None:
        replica, driver = _on_a_thread()
        async with asyncio.timeout(5.0):
            while replica.beats < 4:
                await asyncio.sleep(0.001)
        replica.on_disk.set()
        async with asyncio.timeout(5.0):
            while replica.dirty:
                await asyncio.sleep(0.001)
        beats = replica.beats
        await asyncio.sleep(0.1)
        assert replica.beats == beats
        await driver.stop()

    asyncio.run(scenario())


def test_a_leader_whose_disk_does_not_answer_falls_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raft.driver._BEATS_S", 0.05)

    async def scenario() -> int:
        replica, driver = _on_a_thread()
        await asyncio.sleep(0.3)
        beats = replica.beats
        replica.on_disk.set()
        await driver.stop()
        return beats

    assert 1 <= asyncio.run(scenario()) <= 6


def _on_a_thread() -> tuple[SlowDisk, Driver]:
    """A slow disk and its driver, which syncs on a thread and is asked for a step."""
    replica = SlowDisk()
    driver = Driver(replica, SystemClock())  # type: ignore[arg-type]
    driver._threaded = True
    driver.wake()
    return replica, driver


async def _rounds(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)
