"""Kills the leader again and again under a steady write load, and counts what that costs.

    python -m tests.e2e.leader_kills --kills 100

Each write creates a deployment of its own, so a lost one is missing for ever. The write gap of a kill is the longest time between
two acknowledged writes around it. At the end every acknowledged write is looked for on every server, and no process of the
application that ran all the while may have been restarted or moved.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from msgspec import Struct

from kago.client.client import Client
from kago.client.errors import ClientError
from kago.core.model.deployment import Deployment, DeploymentSpec, Runtime
from tests.e2e.harness import Harness

WRITERS = 2
PAUSE_S = 0.01
"""Between two writes of a writer."""
SETTLE_S = 30.0


class Outcome(Struct, frozen=True, kw_only=True):
    gaps: tuple[float, ...]
    """Seconds without an acknowledged write around each kill."""
    acknowledged: int
    failed: int
    """Writes that were refused or whose outcome stayed unknown."""
    lost: tuple[str, ...]
    restarts: int

    def __str__(self) -> str:
        gaps = sorted(self.gaps)

        def at(part: float) -> str:
            return f"{gaps[min(len(gaps) - 1, int(part * len(gaps)))]:.2f}"

        return (
            f"{len(gaps)} leader kills, {self.acknowledged} writes acknowledged, {self.failed} not\n"
            f"write gap in seconds: median {statistics.median(gaps):.2f}, 90 % {at(0.9)}, 99 % {at(0.99)}, worst {gaps[-1]:.2f}\n"
            f"acknowledged writes lost: {len(self.lost)}\ncontainer restarts: {self.restarts}"
        )


class Writers:
    """Writers that note when each of their writes was acknowledged."""

    def __init__(self, urls: tuple[str, ...]) -> None:
        self._urls = urls
        self.acknowledged: list[tuple[float, str]] = []
        self.failed = 0
        self._count = 0

    async def write(self, writer: int) -> None:
        """Until cancelled."""
        urls = self._urls[writer % len(self._urls) :] + self._urls[: writer % len(self._urls)]
        async with Client(urls, timeout_s=10.0) as client:
            while True:
                self._count += 1
                name = f"w-{self._count}"
                try:
                    await client.create(DeploymentSpec(name=name, runtime=Runtime.PROCESS, command=("/bin/true",), replicas=0))
                except ClientError as error:
                    self.failed += 1
                    print(f"write {name}: {error}", file=sys.stderr)
                else:
                    self.acknowledged.append((time.monotonic(), name))
                await asyncio.sleep(PAUSE_S)

    def gap(self, since: float, until: float) -> float:
        """Longest time without an acknowledgement from the last one before `since` on."""
        times = [moment for moment, _ in self.acknowledged]
        before = [moment for moment in times if moment <= since][-1:] or [since]
        edges = before + [moment for moment in times if since < moment <= until]
        return max((later - earlier for earlier, later in pairwise(edges)), default=until - since)


async def kill_leaders(harness: Harness, kills: int) -> Outcome:
    """Run the whole story on a cluster that is up."""
    await asyncio.to_thread(harness.apply, "steady", replicas=4)
    before = harness.processes_of("steady")
    writers = Writers(harness.urls)
    tasks = [asyncio.create_task(writers.write(n)) for n in range(WRITERS)]
    gaps: list[float] = []
    try:
        await asyncio.sleep(0.5)
        for n in range(kills):
            await asyncio.to_thread(harness.until, "every server in step", lambda: in_step(harness), timeout_s=SETTLE_S)
            leader = await asyncio.to_thread(harness.leader)
            killed = time.monotonic()
            await asyncio.to_thread(leader.kill)
            while not any(moment > killed + 0.3 for moment, _ in writers.acknowledged[-50:]):
                if time.monotonic() - killed > SETTLE_S:
                    raise AssertionError(f"no write for {SETTLE_S} s after kill {n + 1}\n{harness.diary()}")
                await asyncio.sleep(0.02)
            await asyncio.sleep(0.2)
            gaps.append(writers.gap(killed - 0.01, time.monotonic()))
            leader.start()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.to_thread(harness.bring_up)
    lost = await missing(harness, {name for _, name in writers.acknowledged})
    after = harness.processes_of("steady")
    restarts = sum(after.get(name) != pids for name, pids in before.items()) + sum(pod["restarts"] for pod in harness.pods("steady"))
    return Outcome(gaps=tuple(gaps), acknowledged=len(writers.acknowledged), failed=writers.failed, lost=lost, restarts=restarts)


def in_step(harness: Harness) -> bool:
    """A leader and all the others following it closely: only then does a kill leave a majority."""
    cluster = harness.cluster()
    roles = sorted(member["role"] for member in cluster["members"])
    return roles == ["follower", "follower", "leader"] and all((member["lag"] or 0) < 100 for member in cluster["members"])


async def missing(harness: Harness, names: set[str]) -> tuple[str, ...]:
    """Acknowledged names that any server does not know."""
    lost: set[str] = set()
    for url in harness.urls:
        async with Client([url], timeout_s=30.0) as client:
            lost |= names - {deployment.name for deployment in await client.list(Deployment)}
    return tuple(sorted(lost))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kago-kills-") as directory:
        harness = Harness(Path(directory))
        try:
            harness.bring_up()
            outcome = asyncio.run(kill_leaders(harness, arguments.kills))
        finally:
            harness.close()
    print(outcome)
    return 1 if outcome.lost or outcome.restarts else 0


if __name__ == "__main__":
    sys.exit(main())
