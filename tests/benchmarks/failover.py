"""The leader killed, or its link cut: how long until somebody's write is acknowledged again, with etcd under the same faults."""

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack

from tests.benchmarks.attempts import Attempts, Plan
from tests.benchmarks.figures import Figure, Goal
from tests.benchmarks.groups import NAMES, USER, EtcdMembers, Group, KagoServers, linked, why_no_etcd
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
            kago_network, etcd_network = (stack.enter_context(linked(Network((*NAMES, USER)))) for _ in range(2))
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
        leader, took_s = first_write_s(group, lambda leader: group.processes[leader].kill())
        group.processes[leader].start()
        group.leader()
        return {KILLED: took_s, KILLED_WORST: took_s}

    return take


def _cut(group: Group, network: Network) -> Callable[[], Mapping[Figure, float]]:
    def take() -> Mapping[Figure, float]:
        leader, took_s = first_write_s(group, network.cut)
        network.join(leader)
        group.leader()
        return {CUT: took_s, CUT_WORST: took_s}

    return take


def first_write_s(group: Group, fault: Callable[[str], None]) -> tuple[str, float]:
    """(the leader that `fault` was done to, seconds from its beginning to another server's acknowledgement of a write begun after it)."""
    targets = {name: group.target(name) for name in NAMES}
    with Attempts(Plan(targets=targets, request=group.write()), group.inside) as attempts:
        leader = group.leader()
        began = time.monotonic()
        fault(leader)
        first = attempts.first(after=time.monotonic(), at=targets.keys() - {leader}, within_s=WITHIN_S)
    return leader, first.answered_at - began
