"""`python -m tests.benchmarks.idle_connections [--connections 10000]`: a real cluster, thousands of silent strangers at each port.

Prints what they cost in memory and how long others wait meanwhile, and checks that a server that was killed finds its way back past
those at the Raft port. Every connection is opened anew when it was closed on the other side, for as long as is measured.
"""

import argparse
import selectors
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import quantiles

from tests.e2e.harness import Harness

ASKED = 300
SETTLE_S = 3.0


class Crowd:
    """So many connections that say nothing."""

    def __init__(self, port: int, size: int) -> None:
        self._port, self._size = port, size
        self._selector = selectors.DefaultSelector()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="crowd")
        self.opened = 0
        self.turned_away = 0

    def __enter__(self) -> "Crowd":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()

    @property
    def open(self) -> int:
        return len(self._selector.get_map())

    def _run(self) -> None:
        while not self._stop.is_set():
            for _ in range(min(500, self._size - self.open)):
                stranger = socket.socket()
                stranger.settimeout(2)
                try:
                    stranger.connect(("127.0.0.1", self._port))
                except OSError:
                    stranger.close()
                    break
                self._selector.register(stranger, selectors.EVENT_READ)
                self.opened += 1
            for key, _ in self._selector.select(0.05):
                stranger = key.fileobj  # type: ignore[assignment]
                with suppress(OSError):
                    if stranger.recv(4096):
                        continue
                self.turned_away += 1
                self._selector.unregister(stranger)
                stranger.close()


def resident_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 1e6


def latencies_ms(harness: Harness) -> str:
    """Of reads of a list through the first server, one after the other."""
    took = []
    for _ in range(ASKED):
        began = time.perf_counter()
        harness.http.get(f"{harness.urls[0]}/deployments").raise_for_status()
        took.append(1000 * (time.perf_counter() - began))
    points = quantiles(took, n=100)
    return f"reads p50 {points[49]:.1f} ms, p99 {points[98]:.1f} ms"


@contextmanager
def crowded(harness: Harness, what: str, port: int, pid: int, size: int) -> Iterator[Crowd]:
    before = resident_mb(pid)
    with Crowd(port, size) as crowd:
        until = time.monotonic() + 150
        while crowd.opened < size and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(SETTLE_S)
        held, during = crowd.open, resident_mb(pid)
        print(f"{what}: {crowd.opened} opened, {held} open, {crowd.turned_away} closed by it; {before:.0f} -> {during:.0f} MB", flush=True)
        yield crowd
    time.sleep(SETTLE_S)
    print(f"{what}: all gone, {resident_mb(pid):.0f} MB", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.benchmarks.idle_connections", description=__doc__)
    parser.add_argument("--connections", type=int, default=10_000)
    size = parser.parse_args().connections
    with tempfile.TemporaryDirectory(prefix="kago-idle-") as base:
        harness = Harness(Path(base), servers=3, agents=1)
        try:
            harness.bring_up()
            first, agent = harness.servers[0], harness.agents[0]
            print(f"nobody: {latencies_ms(harness)}", flush=True)
            with crowded(harness, "API", harness.ports.api[0], first.pid, size):
                print(f"API: {latencies_ms(harness)}", flush=True)
            with crowded(harness, "Raft", harness.ports.raft[0], first.pid, size):
                print(f"Raft: {latencies_ms(harness)}", flush=True)
                harness.servers[2].kill()
                began = time.monotonic()
                harness.servers[2].start()
                harness.until("the killed server to be back", harness.healthy)
                print(f"Raft: a killed server was back {time.monotonic() - began:.1f} s after its start", flush=True)
            with crowded(harness, "agent", harness.ports.agent[0], agent.pid, size):
                harness.until("the node to be ready", harness.healthy)
        finally:
            harness.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
