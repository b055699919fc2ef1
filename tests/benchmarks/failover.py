"""The leader killed, or its link cut: how long until somebody's write is acknowledged again, with etcd under the same faults."""

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack

from tests.benchmarks.attempts import Attempts, Plan
from tests.benchmarks.figures import Figure, Goal
from tests.benchmarks.groups import NAMES, USER, EtcdMembers, Group, KagoServers, why_no_etcd
from tests.benchmarks.session import KAGO, Bench, Probe, Session
from tests.e2e.netns import Network, why_none

ETCD = "etcd"
KILLED = Figure(name="leader killed -9, first write, median", unit="s", peer=ETCD, goal=Goal(at_least=False, plus=0.4))
KILLED_WORST = Figure(name="leader killed -9, first write, worst", unit="s", peer=ETCD, goal=Goal(at_least=False, plus=1.0), worst=True)
CUT = Figure(name="leader's link cut, first write, median", unit="s", peer=ETCD, goal=Goal(at_least=False, plus=0.4))
CUT_WORST = Figure(name="leader's link cut, first write, worst", unit="s", peer=ETCD, goal=Goal(at_least=False, plus=1.0), worst=True)
KAGO_EACH = 5
"""Faults of Kago's between two of its peer's: its worst is to be found among many."""
WITHIN_S = 30.0


def run(session: Session) -> None:
    with ExitStack() as stack:
        kago_network, etcd_network = None, None
        if why := why_none():
            session.miss((CUT, CUT_WORST), KAGO, why)
        else:
            kago_network, etcd_network = (stack.enter_context(_up(Network((*NAMES, USER)))) for _ in range(2))
        groups: list[tuple[str, Group, Network | None]] = []
        kago = stack.enter_context(KagoServers(session.place("kago"), kago_network))
        kago.make_probe()
        groups += [(KAGO, kago, kago_network)] * KAGO_EACH
        if why := why_no_etcd():
            session.miss((KILLED, KILLED_WORST, CUT, CUT_WORST), ETCD, why)
        else:
            groups.append((ETCD, stack.enter_context(EtcdMembers(session.place("etcd"), etcd_network)), etcd_network))
        rounds = max(1, session.faults // KAGO_EACH)
        figures = (KILLED, KILLED_WORST)
        session.interleave([Probe(side=side, figures=figures, take=_kill(group)) for side, group, _ in groups], repeats=rounds)
        if kago_network is not None:
            figures = (CUT, CUT_WORST)
            cut = [Probe(side=side, figures=figures, take=_cut(group, network)) for side, group, network in groups if network is not None]
            session.interleave(cut, repeats=rounds)


BENCH = Bench(name="failover", about="the leader killed or cut off under writes", figures=(KILLED, KILLED_WORST, CUT, CUT_WORST), run=run)


def _kill(group: Group) -> Callable[[], Mapping[Figure, float]]:
    def take() -> Mapping[Figure, float]:
        leader = group.leader()
        took_s = first_write_s(group, leader, group.processes[leader].kill)
        group.processes[leader].start()
        group.leader()
        return {KILLED: took_s, KILLED_WORST: took_s}

    return take


def _cut(group: Group, network: Network) -> Callable[[], Mapping[Figure, float]]:
    def take() -> Mapping[Figure, float]:
        leader = group.leader()
        try:
            took_s = first_write_s(group, leader, lambda: network.cut(leader))
        finally:
            network.join(leader)
        group.leader()
        return {CUT: took_s, CUT_WORST: took_s}

    return take


def first_write_s(group: Group, leader: str, fault: Callable[[], None]) -> float:
    """From the fault's beginning to the first acknowledgement of a write that was begun after its end, at any of the other servers."""
    targets = {name: group.target(name) for name in NAMES}
    with Attempts(Plan(targets=targets, request=group.write()), group.inside) as attempts:
        began = time.monotonic()
        fault()
        return attempts.first(after=time.monotonic(), at=targets.keys() - {leader}, within_s=WITHIN_S).answered_at - began


class _up:
    """A network while it is used."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def __enter__(self) -> Network:
        self._network.up()
        return self._network

    def __exit__(self, *_: object) -> None:
        self._network.down()
