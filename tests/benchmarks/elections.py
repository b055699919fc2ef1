"""Elections that nobody caused: the API at full load for half an hour, lists of 150,000 pods and backups of all of it included."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from tests.benchmarks.figures import Figure, Goal
from tests.benchmarks.groups import NAMES, KagoServers, until
from tests.benchmarks.load import Load, LoadFailed, apply
from tests.benchmarks.session import KAGO, Bench, Probe, Session
from tests.benchmarks.wire import http_request, http_requests

ELECTIONS = Figure(name="spurious elections in 30 min of full load, 150,000 pods", unit="", goal=Goal(at_least=False), worst=True)
PUTS = Figure(name="API PUT beside lists of 150,000 pods and backups, 16 clients", unit="/s")
WRITERS, LISTERS = 16, 2
LIST_S = 180.0
"""A list of everything has a hundred megabytes, and all that goes on beside it."""
REPLICAS = 5_000
"""Of one deployment; without nodes its pods wait, and are in every list and snapshot all the same."""


def run(session: Session) -> None:
    pods, seconds = (5_000, 15.0) if session.quick else (150_000, 1800.0)
    if session.quick:
        session.reduce((ELECTIONS,), f"{pods:,} pods, {seconds:.0f} s")
    with ExitStack() as stack:
        kago = stack.enter_context(KagoServers(session.place("kago")))
        leader = kago.leader()
        size = {"cpu_millis": 100, "memory_mb": 64}
        for n in range(pods // REPLICAS):
            spec = {"name": f"web-{n}", "image": "none", "replicas": REPLICAS, "resources": size}
            kago.fetch(leader, "/deployments", spec, "POST")
        for n in range(WRITERS):
            kago.fetch(leader, "/deployments", {"name": f"put-{n}", "image": "none", "replicas": 0, "resources": size}, "POST")

        def made() -> bool:
            found = kago.fetch(leader, "/deployments?stale=true")
            return bool(pods == sum(one["total_replicas"] for one in found))

        until(f"{pods:,} pods", made, kago.diary, within_s=600)

        def take() -> Mapping[Figure, float]:
            term = kago.cluster()["term"]
            per_s = _full_load(kago, session.directory, seconds)
            kago.leader()
            return {ELECTIONS: float(kago.cluster()["term"] - term), PUTS: per_s}

        session.interleave([Probe(side=KAGO, figures=(ELECTIONS, PUTS), take=take)], repeats=1)


BENCH = Bench(name="elections", about="the API at full load for half an hour: no leader may be lost", figures=(ELECTIONS, PUTS), run=run)


def _full_load(kago: KagoServers, directory: Path, seconds: float) -> float:
    """PUTs at a follower, lists at each server, backups one after the other; the rate of the PUTs."""
    leader = kago.leader()
    follower = next(name for name in NAMES if name != leader)
    bodies = [json.dumps({"env": {"V": str(n)}}).encode() for n in range(200)]
    puts = tuple(http_requests("PUT", f"/deployments/put-{n}", bodies) for n in range(WRITERS))
    list_all = ((http_request("GET", "/pods"),),) * LISTERS
    done = threading.Event()
    failures: list[str] = []

    def listing(name: str) -> None:
        try:
            apply(Load(target=kago.target(name), clients=list_all, seconds=seconds, drain_s=LIST_S))
        except Exception as error:  # told below, by the thread that can be heard
            failures.append(f"lists at {name}: {error}")

    def backing_up() -> None:
        while not done.is_set():
            command = [sys.executable, "-m", "kago.cli.main", "snapshot", "save", str(directory / "backup"), "--server", kago.urls[0]]
            saved = subprocess.run(command, capture_output=True, text=True, check=False)
            if saved.returncode:
                failures.append(f"snapshot save: {saved.stderr}")
                return
            (directory / "backup").unlink()
            time.sleep(1.0)

    threads = [threading.Thread(target=listing, args=(name,)) for name in NAMES] + [threading.Thread(target=backing_up)]
    for thread in threads:
        thread.start()
    try:
        per_s = apply(Load(target=kago.target(follower), clients=puts, seconds=seconds)).per_s
    finally:
        done.set()
        for thread in threads:
            thread.join()
    if failures:
        raise LoadFailed("; ".join(failures))
    return per_s
