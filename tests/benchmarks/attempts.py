"""Writes tried without pause from a process of its own, each on its own connection: when the first is acknowledged after a fault.

A new attempt at every server each 20 ms, whether or not earlier ones were answered, so that no time-out of ours is in the figure.
`python -m tests.benchmarks.attempts` reads a Plan from its input and prints a line for each acknowledged attempt.
"""

import asyncio
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import msgspec
from msgspec import Struct

from tests.benchmarks.wire import Http

EVERY_S = 0.02
GIVEN_UP_S = 5.0
NUMBER = b"0000000000"
"""Stands in the request for the number of the attempt."""


class Plan(Struct, frozen=True, kw_only=True):
    targets: dict[str, str]
    """host:port by name."""
    request: bytes


class Acknowledged(Struct, frozen=True, array_like=True):
    target: str
    began_at: float
    """time.monotonic, which all processes of a machine share."""
    answered_at: float


class Attempts:
    """The process, from its first acknowledged attempt on."""

    def __init__(self, plan: Plan, inside: Sequence[str] = ()) -> None:
        self._plan = plan
        self._command = [*inside, sys.executable, "-m", "tests.benchmarks.attempts"]
        self._rest = b""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(self._plan))
        self._process.stdin.close()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._process.stdout, selectors.EVENT_READ)
        for target in self._plan.targets:
            self.first(after=0.0, at={target}, within_s=30.0)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()
        self._selector.close()

    def first(self, *, after: float, at: set[str], within_s: float) -> Acknowledged:
        """The first acknowledged one of those begun later than `after` at one of `at`. TimeoutError."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            *lines, self._rest = self._rest.split(b"\n")
            for line in lines:
                found = msgspec.json.decode(line, type=Acknowledged)
                if found.began_at > after and found.target in at:
                    return found
            if self._selector.select(0.1):
                self._rest += os.read(self._process.stdout.fileno(), 65536)
        raise TimeoutError(f"no write was acknowledged for {within_s:.0f} s")


async def _try_all(plan: Plan) -> None:
    """Until killed."""
    count, under_way = 0, set()
    while True:
        for name, target in plan.targets.items():
            count += 1
            request = plan.request.replace(NUMBER, str(count).zfill(len(NUMBER)).encode())
            task = asyncio.create_task(_try(name, target, request))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        await asyncio.sleep(EVERY_S)


async def _try(name: str, target: str, request: bytes) -> None:
    host, _, port = target.rpartition(":")
    began_at = time.monotonic()
    writer = None
    try:
        async with asyncio.timeout(GIVEN_UP_S):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(request)
            wire, answer = Http(), None
            while answer is None and (data := await reader.read(65536)):
                answer, _ = wire.feed(data)
    except (OSError, TimeoutError):
        return
    finally:
        if writer is not None:
            writer.close()
    if answer is not None and answer.ok:
        line = msgspec.json.encode(Acknowledged(name, began_at, time.monotonic()))
        sys.stdout.buffer.write(line + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    asyncio.run(_try_all(msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)))
