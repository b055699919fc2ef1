"""What of the API is asked of Swarm's managers: services updated, and lists of services and tasks."""

import json
from collections.abc import Callable, Mapping

from tests.benchmarks.figures import Figure
from tests.benchmarks.groups import until
from tests.benchmarks.load import Load, apply
from tests.benchmarks.session import Session
from tests.benchmarks.swarm import API, MANAGERS, Swarm, service
from tests.benchmarks.wire import http_request

KINDS = {"deployments": "/services", "pods": "/tasks"}
OUT_OF_SEQUENCE = 0.2
"""So many updates may be refused: the manager itself changes a service now and then between our reading of its version and the update."""


class SwarmProbes:
    def __init__(self, session: Session, swarm: Swarm) -> None:
        self._session = session
        self._swarm = swarm
        self._made = 0

    def updates(self, figure: Figure, role: str, clients: int) -> Callable[[], Mapping[Figure, float]]:
        """Of services without tasks, each client its own. The version an update needs is read before it: in the rate, not in p50."""

        def take() -> Mapping[Figure, float]:
            swarm, server = self._swarm, self._at(role)
            requests = []
            for _ in range(clients):
                self._made += 1
                name = f"put-{self._made}"
                path = f"{API}/services/{swarm.create(name, 0)}"
                requests.append((path.encode(), json.dumps(service(name, 0)).encode()))
            load = Load(target=swarm.socket_of(server), clients=tuple(requests), seconds=self._session.load_s, swarm=True)
            outcome = apply(load, tolerated=OUT_OF_SEQUENCE)
            swarm.remove_all()
            return {figure: outcome.per_s if clients > 1 else outcome.p50_ms}

        return take

    def fill(self, count: int) -> None:
        """So many services of one task each, all running."""
        for n in range(count):
            self._swarm.create(f"web-{n}", 1)
        leader = self._swarm.leader()

        def running() -> bool:
            tasks = self._swarm.call(leader, "GET", "/tasks")
            return [task["Status"]["State"] for task in tasks] == ["running"] * count

        until(f"{count} tasks to run", running, within_s=180.0)

    def lists(self, figure: Figure, kind: str, role: str) -> Callable[[], Mapping[Figure, float]]:
        def take() -> Mapping[Figure, float]:
            requests = ((http_request("GET", API + KINDS[kind]),),) * 16
            outcome = apply(Load(target=self._swarm.socket_of(self._at(role)), clients=requests, seconds=self._session.load_s))
            self._session.remark(figure, f"Swarm's answers have about {round(outcome.answer_bytes, -2):,} bytes")
            return {figure: outcome.per_s}

        return take

    def _at(self, role: str) -> str:
        leader = self._swarm.leader()
        return leader if role == "leader" else next(name for name in MANAGERS if name != leader)
