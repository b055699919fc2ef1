"""Real containers on real engines: one and fifty replicas against the engine alone, and a worker lost, beside Swarm."""

import json
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from urllib.request import urlopen

from tests.benchmarks.figures import Figure, Goal
from tests.benchmarks.groups import NAMES, USER, KagoServers, Process, free_ports, linked, until
from tests.benchmarks.session import KAGO, Bench, Probe, Session
from tests.benchmarks.swarm import IMAGE, SLEEP, WORKERS, Swarm, call, swarm_place, why_no_swarm
from tests.e2e.netns import Network
from tests.integration.engine import Engine, private_engine, why_none

ENGINE, SWARM = "the engine", "Swarm"
ONE = Figure(name="one replica, apply to running, host network", unit="s", peer=ENGINE, goal=Goal(at_least=False, times=1, plus=0.06))
FIFTY = Figure(name="50 replicas, apply to running, host network", unit="s", peer=ENGINE, goal=Goal(at_least=False, times=1.1))
DEAD = Figure(name="worker's link cut: its 10 pods running elsewhere", unit="s", peer=SWARM, goal=Goal(at_least=False, plus=6.0))
TUNED = Figure(name="worker's link cut, both tuned: its 10 pods elsewhere", unit="s", peer=SWARM, goal=Goal(at_least=False, times=1))
FIGURES = (ONE, FIFTY, DEAD, TUNED)
AT_ONCE = 8
"""As many starts as a Kago agent has under way."""
CPU_MILLIS, MEMORY_MB = 100, 64
"""Of each container, Kago's and the engine's own: a tenth of a processor holds back what starts as well."""
PODS = 10
LEASES = {DEAD: "5s", TUNED: "1s"}
"""Kago's: as it comes, and tuned."""
BEATS = {DEAD: (5.0, 5.0), TUNED: (1.0, 0.0)}
"""Swarm's heartbeat and restart delay, in seconds: as it comes, and tuned to its limit."""


def run(session: Session) -> None:
    if why := why_none():
        session.miss((ONE, FIFTY), KAGO, why)
    else:
        _start(session)
    if why := why_no_swarm():
        session.miss((DEAD, TUNED), KAGO, why)
        return
    for figure in (DEAD, TUNED):
        _lose(session, figure)


BENCH = Bench(name="containers", about="containers on real engines started and moved", figures=FIGURES, run=run)


def _start(session: Session) -> None:
    with ExitStack() as stack:
        engine = stack.enter_context(private_engine())
        engine.make_image(IMAGE)
        kago = stack.enter_context(KagoServers(session.place("kago")))
        stack.enter_context(_Agent(session, "w1", kago.urls, engine))
        until("a ready node", lambda: [node["status"] for node in kago.fetch(NAMES[0], "/nodes")] == ["ready"])
        probes = []
        for figure, count in ((ONE, 1), (FIFTY, 50)):
            probes.append(Probe(side=KAGO, figures=(figure,), take=_ours(kago, engine, figure, count)))
            probes.append(Probe(side=ENGINE, figures=(figure,), take=_alone(engine, figure, count)))
        session.interleave(probes)


def _ours(kago: KagoServers, engine: Engine, figure: Figure, count: int) -> Callable[[], Mapping[Figure, float]]:
    """By the deployment's own count of ready pods, on the server that took it; the engine is asked afterwards."""

    def take() -> Mapping[Figure, float]:
        leader = kago.leader()
        with urlopen(f"{kago.urls[NAMES.index(leader)]}/deployments?watch=true&name=many", timeout=120) as events:
            began = time.monotonic()
            kago.fetch(leader, "/deployments", _spec("many", count), "POST")
            took_s = _ready(events, count) - began
        running = call(_socket(engine), "GET", "/containers/json")
        assert len(running) == count, f"the engine runs {len(running)} of {count}"
        kago.fetch(leader, "/deployments/many", None, "DELETE")
        until("no container", lambda: call(_socket(engine), "GET", "/containers/json?all=true") == [])
        until("no pod", lambda: kago.fetch(leader, "/pods") == [])
        return {figure: took_s}

    return take


def _ready(events: Iterable[bytes], count: int) -> float:
    """When so many were ready, as a watch tells: to ask again and again would take from the processors what is measured."""
    for line in events:
        if json.loads(line).get("object", {}).get("ready_replicas") == count:
            return time.monotonic()
    raise AssertionError(f"the watch ended before {count} pods ran")


def _alone(engine: Engine, figure: Figure, count: int) -> Callable[[], Mapping[Figure, float]]:
    """The same containers, with the same limits, created and started over the engine's API, as many at once as an agent does."""

    def take() -> Mapping[Figure, float]:
        address, made, left = _socket(engine), [], list(range(count))
        limits = {"NanoCpus": CPU_MILLIS * 10**6, "Memory": MEMORY_MB * 2**20, "MemorySwap": MEMORY_MB * 2**20}
        body = {"Image": IMAGE, "Cmd": list(SLEEP), "HostConfig": {"NetworkMode": "host", **limits}}

        def work() -> None:
            while True:
                try:
                    left.pop()
                except IndexError:
                    return
                id = call(address, "POST", "/containers/create", body)["Id"]
                call(address, "POST", f"/containers/{id}/start")
                made.append(id)

        threads = [threading.Thread(target=work) for _ in range(min(AT_ONCE, count))]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took_s = time.monotonic() - began
        assert len(made) == count, f"the engine started {len(made)} of {count}"
        for id in made:
            call(address, "DELETE", f"/containers/{id}?force=true")
        return {figure: took_s}

    return take


def _lose(session: Session, figure: Figure) -> None:
    """Each side anew for each pace: an engine for each worker, two workers, all pods on both."""
    with ExitStack() as stack:
        network = stack.enter_context(linked(Network((*NAMES, USER, *WORKERS))))
        engines = [stack.enter_context(private_engine()) for _ in WORKERS]
        kago = stack.enter_context(KagoServers(session.place("kago"), network, "--node-lease", LEASES[figure]))
        for worker, engine in zip(WORKERS, engines, strict=True):
            engine.make_image(IMAGE)
            stack.enter_context(_Agent(session, worker, kago.urls, engine, network))
        swarm = stack.enter_context(Swarm(swarm_place()))
        beat_s, delay_s = BEATS[figure]
        swarm.drain_managers()
        swarm.heartbeat(beat_s)

        def ours() -> Mapping[Figure, float]:
            until("two ready nodes", lambda: [node["status"] for node in kago.fetch(NAMES[0], "/nodes")] == ["ready"] * 2)
            leader = kago.leader()
            kago.fetch(leader, "/deployments", _spec("many", 2 * PODS) | {"scheduler": "least-allocated"}, "POST")
            until("all to run", lambda: kago.fetch(leader, "/deployments/many")["ready_replicas"] == 2 * PODS)
            assert _elsewhere(kago, leader) == PODS
            began = time.monotonic()
            network.cut(WORKERS[0])
            until("pods to run elsewhere", lambda: _elsewhere(kago, leader) == 2 * PODS)
            took_s = time.monotonic() - began
            network.join(WORKERS[0])
            kago.fetch(leader, "/deployments/many", None, "DELETE")
            until("no pod", lambda: kago.fetch(leader, "/pods") == [])
            return {figure: took_s}

        def theirs() -> Mapping[Figure, float]:
            swarm.create("many", 2 * PODS, delay_s)
            until("all to run", lambda: swarm.running("many") == 2 * PODS)
            lost = swarm.node_id(WORKERS[0])
            assert swarm.running("many", except_on=lost) == PODS
            began = time.monotonic()
            swarm.network.cut(WORKERS[0])
            until("tasks to run elsewhere", lambda: swarm.running("many", except_on=lost) == 2 * PODS)
            took_s = time.monotonic() - began
            swarm.network.join(WORKERS[0])
            swarm.remove_all()
            return {figure: took_s}

        session.interleave([Probe(side=KAGO, figures=(figure,), take=ours), Probe(side=SWARM, figures=(figure,), take=theirs)])


def _elsewhere(kago: KagoServers, name: str) -> int:
    pods = kago.fetch(name, "/pods?deployment_name=many")
    return sum(pod["status"] == "running" and pod["ready"] and pod["node_name"] != WORKERS[0] for pod in pods)


class _Agent:
    """A Kago agent on an engine, where there is a network on a machine of it."""

    def __init__(self, session: Session, name: str, masters: Sequence[str], engine: Engine, network: Network | None = None) -> None:
        place = session.place(name)
        words = ["agent", "--name", name, "--master", ",".join(masters), "--runtime", "docker", "--data-dir", str(place / "data")]
        words += ["--cpu", "16000", "--memory", "16384", "--port", str(free_ports(1)[0])]
        words += ["--address", "127.0.0.1" if network is None else network.addresses[name]]
        inside = network.inside(name) if network is not None else ()
        command = [*inside, sys.executable, "-m", "kago.cli.main", *words]
        self._process = Process(command, place / "log", {"DOCKER_HOST": engine.host})

    def __enter__(self) -> "_Agent":
        self._process.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()


def _spec(name: str, replicas: int) -> dict[str, object]:
    template = {"image": IMAGE, "command": list(SLEEP), "network": "host", "stop_grace_s": 0.1}
    return {"name": name, "replicas": replicas, "resources": {"cpu_millis": CPU_MILLIS, "memory_mb": MEMORY_MB}, **template}


def _socket(engine: Engine) -> str:
    return engine.host.removeprefix("unix://")


