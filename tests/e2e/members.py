"""Servers come, go, move and lead in turn under a steady write load, on real processes.

    python -m tests.e2e.members

Every one of three servers is replaced, one moves to another port, the cluster grows to five and shrinks to three again, the leader
among those that go. At the end every acknowledged write is looked for on every server, and no process of the application may have
been touched.
"""

import asyncio
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from kago.client.client import Client
from kago.core.model.deployment import Deployment
from kago.server.app import EXPELLED
from tests.e2e.harness import LOOPBACK, Harness, KagoProcess
from tests.e2e.leader_kills import WRITERS, Writers


class Outcome(Struct, frozen=True, kw_only=True):
    steps: tuple[tuple[str, float, float], ...]
    """(what, seconds it took, longest time without an acknowledged write in it)."""
    acknowledged: int
    failed: int
    lost: tuple[str, ...]
    touched: bool

    def __str__(self) -> str:
        lines = [f"{what:<28} {took:6.2f} s, write gap {gap:5.2f} s" for what, took, gap in self.steps]
        return "\n".join(
            [*lines, f"{self.acknowledged} writes acknowledged, {self.failed} not, {len(self.lost)} lost, touched: {self.touched}"]
        )


class Servers:
    """The servers of a harness by Raft address, those that come among them."""

    def __init__(self, harness: Harness) -> None:
        self._harness = harness
        self.processes: dict[str, KagoProcess] = {
            f"{LOOPBACK}:{port}": process for port, process in zip(harness.ports.raft, harness.servers, strict=True)
        }
        self.urls: dict[str, str] = dict(zip(self.processes, harness.urls, strict=True))
        self.gone: list[KagoProcess] = []

    def kago(self, *arguments: str, code: int = 0) -> str:
        return self._harness.kago(*arguments, code=code, servers=list(self.urls.values()))

    def start(self) -> str:
        """A new server that asks to join; its Raft address."""
        api, raft = _free_port(), _free_port()
        address, name = f"{LOOPBACK}:{raft}", f"joined-{raft}"
        data = self._harness.directory / name
        arguments = ["serve", "--host", LOOPBACK, "--port", str(api), "--join", ",".join(self.urls.values()), "--address", address]
        process = KagoProcess(name, [*arguments, "--data-dir", str(data)], self._harness.directory / f"{name}.log")
        process.start()
        self.processes[address], self.urls[address] = process, f"http://{LOOPBACK}:{api}"
        return address

    def leave(self, address: str) -> KagoProcess:
        self.urls.pop(address)
        self.gone.append(self.processes.pop(address))
        return self.gone[-1]

    def move(self, address: str) -> str:
        """Stop it, and start it on the same data directory at another Raft port."""
        process, new = self.processes.pop(address), f"{LOOPBACK}:{_free_port()}"
        process.stop()
        arguments = list(process.arguments)
        arguments[arguments.index("--address") + 1] = new
        process.arguments = tuple(arguments)
        process.start()
        self.processes[new], self.urls[new] = process, self.urls.pop(address)
        return new

    def leader(self) -> str:
        cluster = self._ask()
        return next(member["address"] for member in cluster["members"] if member["role"] == "leader")

    def role(self, address: str) -> str:
        return next(member["role"] for member in self._ask()["members"] if member["address"] == address)

    def in_step(self, size: int) -> bool:
        members = self._ask()["members"]
        roles = sorted(member["role"] for member in members)
        return roles == ["follower"] * (size - 1) + ["leader"] and {member["address"] for member in members} == set(self.processes)

    def _ask(self) -> dict[str, list[dict[str, str]]]:
        answer = self._harness.http.get(next(iter(self.urls.values())) + "/cluster")
        answer.raise_for_status()
        found: dict[str, list[dict[str, str]]] = answer.json()
        return found

    def close(self) -> None:
        for process in [*self.processes.values(), *self.gone]:
            process.stop()


async def change_servers(harness: Harness) -> Outcome:
    """The whole story, on a cluster of three that is up."""
    await asyncio.to_thread(harness.apply, "steady", replicas=4)
    before = harness.processes_of("steady")
    servers, writers = Servers(harness), Writers(harness.urls)
    tasks = [asyncio.create_task(writers.write(n)) for n in range(WRITERS)]
    steps: list[tuple[str, float, float]] = []

    async def step(what: str, act: Callable[[], object], size: int) -> None:
        began = time.monotonic()
        await asyncio.to_thread(act)
        took = time.monotonic() - began
        await asyncio.to_thread(harness.until, f"every server in step: {what}", lambda: servers.in_step(size))
        await asyncio.sleep(0.3)
        steps.append((what, took, writers.gap(began, time.monotonic())))

    def replace(old: str) -> None:
        new = servers.start()
        said = servers.kago("cluster", "replace", old, new)
        assert said == f"server/{new} added\nserver/{old} removed\n", said
        gone = servers.leave(old)
        harness.until("the removed server to stop", lambda: not gone.running)
        assert gone.exit_code == EXPELLED and "removed from the cluster" in gone.last_words()

    def replace_dead() -> None:
        old = next(address for address in servers.processes if address != servers.leader())
        servers.processes[old].kill()
        servers.leave(old)
        harness.until("the dead one to be missed", lambda: servers.role(old) == "down")
        new = servers.start()
        said = servers.kago("cluster", "replace", old, new)
        assert said == f"server/{old} removed\nserver/{new} added\n", said

    def remove(address: str) -> None:
        servers.kago("cluster", "remove", address)
        gone = servers.leave(address)
        harness.until("the removed server to stop", lambda: not gone.running)

    try:
        await asyncio.sleep(0.5)
        for old in list(servers.processes):
            await step("replace", lambda old=old: replace(old), 3)  # type: ignore[misc]
        await step("replace a dead one", replace_dead, 3)
        await step("move a follower", lambda: servers.move(next(a for a in servers.processes if a != servers.leader())), 3)
        await step("move the leader", lambda: servers.move(servers.leader()), 3)
        await step("grow to four", lambda: servers.kago("cluster", "add", servers.start()), 4)
        await step("grow to five", lambda: servers.kago("cluster", "add", servers.start()), 5)
        await step("give leadership away", lambda: servers.kago("cluster", "transfer-leader"), 5)
        await step("remove the leader", lambda: remove(servers.leader()), 4)
        await step("remove another", lambda: remove(next(a for a in servers.processes if a != servers.leader())), 3)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        lost = await _missing(servers, {name for _, name in writers.acknowledged})
        touched = harness.processes_of("steady") != before
        await asyncio.to_thread(servers.close)
    return Outcome(steps=tuple(steps), acknowledged=len(writers.acknowledged), failed=writers.failed, lost=lost, touched=touched)


async def _missing(servers: Servers, names: set[str]) -> tuple[str, ...]:
    lost: set[str] = set()
    for url in servers.urls.values():
        async with Client([url], timeout_s=30.0) as client:
            lost |= names - {deployment.name for deployment in await client.list(Deployment)}
    return tuple(sorted(lost))


def _free_port() -> int:
    with socket.create_server((LOOPBACK, 0)) as probe:
        return int(probe.getsockname()[1])


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="kago-members-") as directory:
        harness = Harness(Path(directory))
        try:
            harness.bring_up()
            outcome = asyncio.run(change_servers(harness))
        finally:
            harness.close()
    print(outcome)
    return 1 if outcome.lost or outcome.touched else 0


if __name__ == "__main__":
    sys.exit(main())
