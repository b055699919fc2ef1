"""Large clusters of hollow nodes: pods placed and reported running, the cost of standing still, and a leader lost among them."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from tests.benchmarks.failover import first_write_s
from tests.benchmarks.figures import Curve, Figure, Goal
from tests.benchmarks.groups import NAMES, KagoServers, until
from tests.benchmarks.hollow_nodes import Counts, Crowd
from tests.benchmarks.machine import cpu_s, resident_mb
from tests.benchmarks.session import KAGO, Bench, Probe, Session

PLACED = Figure(name="apply to all running, 1,000 hollow nodes, 30,000 pods", unit="pods/s", goal=Goal(at_least=True, plus=3_000))
CPU = Figure(name="5,000 nodes, 150,000 pods, steady: CPU of the leader", unit="% of a core", goal=Goal(at_least=False, plus=25))
MEMORY = Figure(name="5,000 nodes, 150,000 pods, steady: memory of a server", unit="MB", goal=Goal(at_least=False, plus=1024))
GROWTH = Figure(name="5,000 nodes, 150,000 pods, steady: entries added to the log", unit="in a minute", goal=Goal(at_least=False))
LOST = Figure(name="5,000 nodes, 150,000 pods, leader killed: first write", unit="s", goal=Goal(at_least=False, plus=1.0), worst=True)
WRONGED = Figure(name="5,000 nodes, 150,000 pods, leader killed: nodes down and pods moved", unit="", goal=Goal(at_least=False), worst=True)
STEADY = (CPU, MEMORY, GROWTH, LOST, WRONGED)
PODS_EACH = 30
DEPLOYMENTS = 30
PROCESSES = 4
PLACED_S = 900.0
AFTER_S = 30.0
"""A leader that wrongs nodes does it within a few leases."""
MEMORY_DISK = Path("/dev/shm")


def run(session: Session) -> None:
    sizes = [20, 40, 80] if session.quick else [250, 500, 1000]
    with hollow_cluster(session, sizes[-1]) as cluster:
        if session.quick:
            session.reduce((PLACED,), f"{sizes[-1]} nodes, {sizes[-1] * PODS_EACH:,} pods")
        session.interleave([Probe(side=KAGO, figures=(PLACED,), take=lambda: {PLACED: cluster.pods / cluster.place_s(cluster.pods)})])
        points = [(float(size * PODS_EACH), cluster.place_s(size * PODS_EACH)) for size in sizes]
        session.curves.append(Curve(name=f"apply on {sizes[-1]} nodes", x="pods", y="seconds to all running", points=tuple(points)))


def run_steady(session: Session) -> None:
    sizes = [25, 50, 100] if session.quick else [1250, 2500, 5000]
    seconds = 10.0 if session.quick else 60.0
    idle: list[tuple[float, float]] = []
    for size in sizes:
        with hollow_cluster(session, size) as cluster:
            cluster.apply(cluster.pods)
            cluster.wait_running(cluster.pods)
            time.sleep(AFTER_S / 3)
            if size < sizes[-1]:
                idle.append((float(size), cluster.stand_still(seconds)[CPU]))
                continue
            if session.quick:
                session.reduce(STEADY, f"{size} nodes, {cluster.pods:,} pods")
            session.interleave([Probe(side=KAGO, figures=(CPU, MEMORY, GROWTH), take=partial(cluster.stand_still, seconds))])
            idle.append((float(size), cluster.stand_still(seconds)[CPU]))
            session.interleave([Probe(side=KAGO, figures=(LOST, WRONGED), take=cluster.lose_leader)])
    session.curves.append(Curve(name="a steady cluster", x="nodes", y="% of a core at the leader", points=tuple(idle)))


BENCH = Bench(name="hollow", about="1,000 hollow nodes take 30,000 pods", figures=(PLACED,), run=run)
BENCH_STEADY = Bench(
    name="steady", about="5,000 hollow nodes with 150,000 pods stand still, and lose their leader", figures=STEADY, run=run_steady
)


class HollowCluster:
    def __init__(self, session: Session, kago: KagoServers, nodes: int, logs: Sequence[Path]) -> None:
        self._session = session
        self.kago = kago
        self.nodes = nodes
        self.pods = nodes * PODS_EACH
        self._logs = logs
        self._applied = 0

    def counts(self) -> list[Counts]:
        """What each process of hollow nodes said last."""
        return [msgspec.json.decode(log.read_bytes().rstrip(b"\n").rpartition(b"\n")[2], type=Counts) for log in self._logs]

    def apply(self, pods: int) -> None:
        self._applied += 1
        leader, count = self.kago.leader(), min(DEPLOYMENTS, pods)
        for n in range(count):
            replicas = pods // count + (n < pods % count)
            spec = {"name": f"web-{self._applied}-{n}", "image": "hollow", "replicas": replicas, "scheduler": "least-allocated"}
            self.kago.fetch(leader, "/deployments", spec | {"resources": {"cpu_millis": 100, "memory_mb": 128}}, "POST")

    def wait_running(self, pods: int) -> None:
        leader = self.kago.leader()

        def ready() -> bool:
            found = self.kago.fetch(leader, "/deployments?stale=true")
            return bool(pods == sum(one["ready_replicas"] for one in found if one["name"].startswith(f"web-{self._applied}-")))

        until(f"{pods} pods to run", ready, self.kago.diary, within_s=PLACED_S)

    def place_s(self, pods: int) -> float:
        """Seconds from the first request to the last pod reported running; then everything is taken away again."""
        started = sum(one.started for one in self.counts())
        began = time.monotonic()
        self.apply(pods)
        self.wait_running(pods)
        took_s = time.monotonic() - began
        for name in NAMES:
            found = self.kago.fetch(name, "/pods")
            assert [pod["status"] for pod in found] == ["running"] * pods, f"{name} has {len(found)} pods"
        until("as many containers", lambda: sum(one.running for one in self.counts()) == pods)
        started = sum(one.started for one in self.counts()) - started
        assert started == pods, f"{started} containers were started for {pods} pods: agents too busy to be heard were taken for lost"
        leader = self.kago.leader()
        for deployment in self.kago.fetch(leader, "/deployments"):
            self.kago.fetch(leader, f"/deployments/{deployment['name']}", None, "DELETE")
        until("all pods to be gone", lambda: self.kago.fetch(leader, "/pods?stale=true") == [], self.kago.diary, within_s=PLACED_S)
        return took_s

    def stand_still(self, seconds: float) -> dict[Figure, float]:
        leader = self.kago.leader()
        pids = {name: self.kago.processes[name].pid for name in NAMES}
        index, spent = self.kago.cluster()["index"], cpu_s(pids[leader])
        time.sleep(seconds)
        return {
            CPU: 100 * (cpu_s(pids[leader]) - spent) / seconds,
            MEMORY: max(resident_mb(pid) for pid in pids.values()),
            GROWTH: (self.kago.cluster()["index"] - index) * 60 / seconds,
        }

    def lose_leader(self) -> Mapping[Figure, float]:
        before, started = self._bound(self.kago.leader()), [one.started for one in self.counts()]
        leader, took_s = first_write_s(self.kago, lambda leader: self.kago.processes[leader].kill())
        self.kago.processes[leader].start()
        down: set[str] = set()
        ends = time.monotonic() + AFTER_S
        while time.monotonic() < ends:
            # Not `stale`: the server that was killed comes back by way of what was so long ago.
            down |= {node["name"] for node in self._first_answer("/nodes") if node["status"] != "ready"}
            time.sleep(1.0)
        after = self._bound(self.kago.leader())
        wrongs = {
            "nodes not ready": len(down),
            "pods gone or elsewhere": sum(after.get(pod) != node for pod, node in before.items()),
            "pods made": len(after.keys() - before.keys()),
            "containers started": sum(one.started for one in self.counts()) - sum(started),
        }
        if any(wrongs.values()):
            self._session.remark(WRONGED, ", ".join(f"{count} {what}" for what, count in wrongs.items()))
        return {LOST: took_s, WRONGED: float(sum(wrongs.values()))}

    def _bound(self, name: str) -> dict[str, str]:
        return {pod["id"]: pod["node_name"] for pod in self.kago.fetch(name, "/pods")}

    def _first_answer(self, path: str) -> list[dict[str, Any]]:
        for name in NAMES:
            try:
                found: list[dict[str, Any]] = self.kago.fetch(name, path)
            except OSError:
                continue
            return found
        return []


@contextmanager
def hollow_cluster(session: Session, nodes: int) -> Iterator[HollowCluster]:
    """Three servers and so many ready nodes."""
    with ExitStack() as stack:
        kago = stack.enter_context(KagoServers(session.place("kago")))
        kago.make_probe()
        notes = stack.enter_context(tempfile.TemporaryDirectory(dir=MEMORY_DISK if MEMORY_DISK.is_dir() else session.directory))
        logs = []
        for n in range(PROCESSES):
            names = tuple(f"hollow-{node:05d}" for node in range(n, nodes, PROCESSES))
            logs.append(Path(notes) / f"{n}.log")
            crowd = Crowd(masters=kago.urls, names=names, directory=notes)
            with logs[-1].open("wb") as log:
                command = [sys.executable, "-m", "tests.benchmarks.hollow_nodes"]
                errors = (session.directory / f"hollow-{n}.log").open("ab")
                process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=errors)
            errors.close()
            stack.callback(process.wait)
            stack.callback(process.kill)
            assert process.stdin is not None
            process.stdin.write(msgspec.json.encode(crowd))
            process.stdin.close()

        def ready() -> bool:
            return [node["status"] for node in kago.fetch(NAMES[0], "/nodes")] == ["ready"] * nodes

        until(f"{nodes} ready nodes", ready, kago.diary, within_s=PLACED_S)
        session.say(f"{nodes} hollow nodes are ready")
        yield HollowCluster(session, kago, nodes, logs)


