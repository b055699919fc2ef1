"""How costs grow: a write with the number of watchers, and a server's start with the length of its log."""

import json
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.benchmarks.figures import Curve, Figure
from tests.benchmarks.groups import NAMES, KagoServers, until
from tests.benchmarks.load import Load, apply, connect
from tests.benchmarks.session import KAGO, Bench, Session
from tests.benchmarks.wire import http_request, http_requests

WATCHED = Figure(name="API PUT, one client, p50, with the most watchers", unit="ms")
STARTED = Figure(name="a follower killed, start to in step, with the longest log", unit="s")


def run(session: Session) -> None:
    with KagoServers(session.place("kago")) as kago:
        kago.make_probe()
        _watchers(session, kago)
        _log(session, kago)


BENCH = Bench(name="curves", about="writes by watchers, starts by the log's length", figures=(WATCHED, STARTED), run=run)


def _watchers(session: Session, kago: KagoServers) -> None:
    """All at one follower, where the writes go too: each write is told to each of them."""
    points = []
    follower = next(name for name in NAMES if name != kago.leader())
    bodies = [json.dumps({"labels": {"v": str(n)}}).encode() for n in range(200)]
    puts = (http_requests("PUT", "/deployments/probe", bodies),)
    for count in (10, 40, 160) if session.quick else (10, 100, 1000):
        with _watching(kago.target(follower), count):
            took_ms = apply(Load(target=kago.target(follower), clients=puts, seconds=session.load_s)).p50_ms
        points.append((float(count), took_ms))
    session.note(WATCHED, KAGO, points[-1][1])
    session.curves.append(Curve(name="a write", x="watchers", y="p50 in ms", points=tuple(points)))


@contextmanager
def _watching(target: str, count: int) -> Iterator[None]:
    command = [sys.executable, "-m", "tests.benchmarks.curves", target, str(count)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"all have their listing\n"
        yield
        assert process.poll() is None, "a watch was ended by the server"
    finally:
        process.kill()
        process.wait()


def _log(session: Session, kago: KagoServers) -> None:
    points: list[tuple[float, float]] = []
    for seconds in (1.0, 3.0, 9.0) if session.quick else (10.0, 40.0, 160.0):
        leader = kago.leader()
        follower = next(name for name in NAMES if name != leader)
        clients = []
        for n in range(64):
            spec = {"name": f"log-{len(points)}-{n}", "image": "none", "replicas": 0}
            kago.fetch(leader, "/deployments", spec, "POST")
            bodies = [json.dumps({"labels": {"v": str(one)}}).encode() for one in range(200)]
            clients.append(http_requests("PUT", f"/deployments/{spec['name']}", bodies))
        apply(Load(target=kago.target(leader), clients=tuple(clients), seconds=seconds))
        length = float(kago.cluster()["index"])
        kago.processes[follower].kill()
        began = time.monotonic()
        kago.processes[follower].start()
        until("the follower to be ready", lambda follower=follower: kago.fetch(follower, "/ready"))  # type: ignore[misc]
        points.append((length, time.monotonic() - began))
    session.note(STARTED, KAGO, points[-1][1])
    session.curves.append(Curve(name="a server's start", x="entries", y="seconds until ready", points=tuple(points)))


def watch(target: str, count: int) -> None:
    """So many watches of all deployments, read and thrown away; says on its output when each has its listing. Ends when one does."""
    poll, connections = select.epoll(), {}
    for _ in range(count):
        connection = connect(target)
        connection.sendall(http_request("GET", "/deployments?watch=true"))
        connections[connection.fileno()] = connection
        poll.register(connection.fileno(), select.EPOLLIN)
    unlisted = set(connections)
    while True:
        for number, _ in poll.poll():
            data = connections[number].recv(65536)
            if not data:
                return
            if number in unlisted and b'"synced"' in data:
                unlisted.discard(number)
                if not unlisted:
                    print("all have their listing", flush=True)


if __name__ == "__main__":
    watch(sys.argv[1], int(sys.argv[2]))
