"""The REST API under load: PUT, GET and lists, beside etcd, Docker Swarm and a Sanic server that does nothing."""

import json
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack

from tests.benchmarks.figures import Figure, Goal
from tests.benchmarks.groups import NAMES, EtcdMembers, KagoServers, Process, ask, free_ports, until, why_no_etcd
from tests.benchmarks.load import BOUND, Load, Outcome, apply
from tests.benchmarks.session import KAGO, Bench, Probe, Session, in_turn
from tests.benchmarks.swarm import Swarm, swarm_place, why_no_swarm
from tests.benchmarks.swarm_probes import SwarmProbes
from tests.benchmarks.wire import http_request, http_requests, message

ETCD, SWARM, SANIC = "etcd", "Swarm", "bare Sanic"
ROLES = ("leader", "follower")
PUT_16 = {
    role: Figure(name=f"API PUT, 16 clients, {role}", unit="/s", peer=SWARM, goal=Goal(at_least=True, times=10)) for role in ROLES
}
PUT_1 = {
    role: Figure(name=f"API PUT, one client, p50, {role}", unit="ms", peer=SWARM, goal=Goal(at_least=False, times=0.5)) for role in ROLES
}
GET = {role: Figure(name=f"API GET, 64 clients, {role}", unit="/s", peer=ETCD, goal=Goal(at_least=True, times=1)) for role in ROLES}
STALE = Figure(name="API GET ?stale=true, 64 clients", unit="/s", peer=SANIC, goal=Goal(at_least=True, times=0.9))
LISTS = {
    (kind, role): Figure(name=f"API list of 100 {kind}, 16 clients, {role}", unit="/s", peer=SWARM, goal=Goal(at_least=True, times=5))
    for kind in ("deployments", "pods")
    for role in ROLES
}
FIGURES = (*PUT_16.values(), *PUT_1.values(), *GET.values(), STALE, *LISTS.values())
THINGS = 100
WRITERS = 16
BODIES = 200
"""Different changes that a client sends in turn."""


def run(session: Session) -> None:
    with ExitStack() as stack:
        kago = stack.enter_context(KagoServers(session.place("kago")))
        probes = _Probes(session, kago)
        probes.fill()
        if why := why_no_etcd():
            session.miss(tuple(GET.values()), ETCD, why)
            etcd = None
        else:
            etcd = stack.enter_context(EtcdMembers(session.place("etcd")))
        bare = stack.enter_context(_Bare(session, probes.one()))
        swarm = None
        if why := why_no_swarm():
            session.miss((*PUT_16.values(), *PUT_1.values(), *LISTS.values()), SWARM, why)
        else:
            swarm = SwarmProbes(session, stack.enter_context(Swarm(swarm_place(), workers=False)))
        for clients, figures in ((WRITERS, PUT_16), (1, PUT_1)):
            ours, theirs = [], []
            for role, figure in figures.items():
                ours.append(Probe(side=KAGO, figures=(figure,), take=probes.writes(figure, role, clients)))
                if swarm is not None:
                    theirs.append(Probe(side=SWARM, figures=(figure,), take=swarm.updates(figure, role, clients)))
            session.interleave(in_turn(ours, theirs))
        probes.clear()
        session.interleave(probes.reads(etcd))
        session.interleave(probes.stale(bare.target))
        ours, theirs = [], []
        if swarm is not None:
            swarm.fill(THINGS)
        for (kind, role), figure in LISTS.items():
            ours.append(Probe(side=KAGO, figures=(figure,), take=probes.gets(figure, role, f"/{kind}", 16)))
            if swarm is not None:
                theirs.append(Probe(side=SWARM, figures=(figure,), take=swarm.lists(figure, kind, role)))
        session.interleave(in_turn(ours, theirs))
        kago.check_on_disk()


BENCH = Bench(name="api", about="PUT, GET and lists at three servers on loopback", figures=FIGURES, run=run)


class _Probes:
    def __init__(self, session: Session, kago: KagoServers) -> None:
        self._session = session
        self._kago = kago

    def fill(self) -> None:
        """A hundred deployments of one pod each, and one without for each writer, so that a change is one write and no rollout."""
        leader = self._kago.leader()
        for n in range(THINGS):
            self._kago.fetch(leader, "/deployments", _spec(f"web-{n}", 1), "POST")
        for n in range(WRITERS):
            self._kago.fetch(leader, "/deployments", _spec(f"put-{n}", 0), "POST")
        until("a hundred pods", lambda: len(self._kago.fetch(leader, "/pods")) == THINGS)

    def clear(self) -> None:
        for n in range(WRITERS):
            self._kago.fetch(self._kago.leader(), f"/deployments/put-{n}", None, "DELETE")

    def one(self) -> bytes:
        return json.dumps(self._kago.fetch(NAMES[0], "/deployments/web-7")).encode()

    def writes(self, figure: Figure, role: str, clients: int) -> Callable[[], Mapping[Figure, float]]:
        def take() -> Mapping[Figure, float]:
            kago, leader = self._kago, self._kago.leader()
            server = self._at(role, leader)
            names = [f"put-{n}" for n in range(clients)]
            before = {name: kago.fetch(leader, f"/deployments/{name}")["revision"] for name in names}
            bodies = [json.dumps({"env": {"V": f"{n:06d}" + "x" * 200}}).encode() for n in range(BODIES)]
            requests = tuple(http_requests("PUT", f"/deployments/{name}", bodies) for name in names)
            outcome = self._apply(Load(target=kago.target(server), clients=requests, seconds=self._session.load_s))
            for name, done in zip(names, outcome.done, strict=True):
                for asked in NAMES:  # each acknowledged change is in the state, on every server
                    there = kago.fetch(asked, f"/deployments/{name}")["revision"]
                    assert there - before[name] in (done, done - 1), f"{done} changes of {name} answered, {there - before[name]} on {asked}"
            return {figure: outcome.per_s if clients > 1 else outcome.p50_ms}

        return take

    def reads(self, etcd: EtcdMembers | None) -> list[Probe]:
        probes = []
        for role in ROLES:
            probes.append(Probe(side=KAGO, figures=(GET[role],), take=self.gets(GET[role], role, "/deployments/web-7", 64)))
            if etcd is not None:
                probes.append(Probe(side=ETCD, figures=(GET[role],), take=self._ranges(etcd, role)))
        return probes

    def stale(self, bare: str) -> list[Probe]:
        def take() -> Mapping[Figure, float]:
            requests = ((http_request("GET", "/thing"),),) * 64
            return {STALE: self._apply(Load(target=bare, clients=requests, seconds=self._session.load_s)).per_s}

        ours = self.gets(STALE, "follower", "/deployments/web-7?stale=true", 64)
        return [Probe(side=KAGO, figures=(STALE,), take=ours), Probe(side=SANIC, figures=(STALE,), take=take)]

    def gets(self, figure: Figure, role: str, path: str, clients: int) -> Callable[[], Mapping[Figure, float]]:
        def take() -> Mapping[Figure, float]:
            server = self._at(role, self._kago.leader())
            found = self._kago.fetch(server, path)
            assert not isinstance(found, list) or len(found) == THINGS, f"{path} lists {len(found)}"
            requests = ((http_request("GET", path),),) * clients
            outcome = self._apply(Load(target=self._kago.target(server), clients=requests, seconds=self._session.load_s))
            self._session.remark(figure, f"{KAGO}'s answers have about {round(outcome.answer_bytes, -2):,} bytes")
            return {figure: outcome.per_s}

        return take

    def _ranges(self, etcd: EtcdMembers, role: str) -> Callable[[], Mapping[Figure, float]]:
        """Linearizable reads of one key with a value of a deployment's size, over gRPC."""

        def take() -> Mapping[Figure, float]:
            leader = etcd.leader()
            put = message((1, b"one"), (2, self.one()))
            self._apply(Load(target=etcd.target(leader), clients=((put,),), seconds=0.2, grpc="/etcdserverpb.KV/Put"))
            get = ((message((1, b"one")),),) * 64
            target = etcd.target(self._at(role, leader))
            load = Load(target=target, clients=get, seconds=self._session.load_s, grpc="/etcdserverpb.KV/Range")
            return {GET[role]: self._apply(load).per_s}

        return take

    def _apply(self, load: Load) -> Outcome:
        outcome = apply(load)
        if outcome.cpu > BOUND:
            self._session.say(f"the generator took {outcome.cpu} of a core: what it asked may be faster")
        return outcome

    def _at(self, role: str, leader: str) -> str:
        return leader if role == "leader" else next(name for name in NAMES if name != leader)


class _Bare:
    def __init__(self, session: Session, content: bytes) -> None:
        place, port = session.place("sanic"), free_ports(1)[0]
        (place / "content").write_bytes(content)
        command = [sys.executable, "-m", "tests.benchmarks.bare", str(port), str(place / "content")]
        self._process = Process(command, place / "log")
        self.target = f"127.0.0.1:{port}"

    def __enter__(self) -> "_Bare":
        self._process.start()
        until("bare Sanic", lambda: ask(self.target, "GET", "/thing"), self._process.last_words)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()


def _spec(name: str, replicas: int) -> dict[str, object]:
    return {"name": name, "image": "busybox:local", "command": ["/bin/busybox", "sleep", "86400"], "replicas": replicas, "network": "host"}


