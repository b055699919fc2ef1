"""The replicated log alone, driven from inside a member's own process: many proposals in flight, and one at a time beside etcd.

The sketch on PySyncObj that the goals of the first two come from is not measured again: what stands here are its figures of another day.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import ExitStack

from tests.benchmarks.figures import Figure, Goal
from tests.benchmarks.groups import NAMES, EtcdMembers, why_no_etcd
from tests.benchmarks.load import Load, apply
from tests.benchmarks.raft_local import LogServer, find_leader, start_members
from tests.benchmarks.session import KAGO, Bench, Probe, Session
from tests.benchmarks.wire import message

ETCD = "etcd"
ROLES = ("leader", "follower")
MANY = {
    role: Figure(name=f"log, 300 bytes, 256 in flight, {role}", unit="/s", goal=Goal(at_least=True, plus=rate))
    for role, rate in zip(ROLES, (75_000, 52_000), strict=True)
}
ONE = {
    role: Figure(name=f"log, one at a time, p50, {role}", unit="ms", peer=ETCD, goal=Goal(at_least=False, times=1)) for role in ROLES
}
READS = Figure(name="log, linearizable reads, 256 in flight, follower", unit="/s")
FIGURES = (*MANY.values(), *ONE.values(), READS)


def run(session: Session) -> None:
    with ExitStack() as stack:
        runner = stack.enter_context(asyncio.Runner())
        place = session.place("log")
        members = runner.run(start_members(place))
        stack.callback(lambda: [runner.run(member.close()) for member in members])

        def ours(figure: Figure, role: str, key: str, in_flight: int, *, reads: bool = False) -> Probe:
            async def take() -> Mapping[Figure, float]:
                member = await _at(members, role)
                before = [state["count"] for state in [await one.ask(do="status") for one in members]]
                found = await member.ask(do="load", in_flight=in_flight, seconds=session.load_s, reads=reads)
                if not reads:
                    await _check(members, before, round(found["per_s"] * session.load_s * 0.9))
                return {figure: float(found[key])}

            return Probe(side=KAGO, figures=(figure,), take=lambda: runner.run(take()))

        session.interleave([ours(figure, role, "per_s", 256) for role, figure in MANY.items()])
        pairs = [ours(figure, role, "p50_ms", 1) for role, figure in ONE.items()]
        if why := why_no_etcd():
            session.miss(tuple(ONE.values()), ETCD, why)
            session.interleave(pairs)
        else:
            etcd = stack.enter_context(EtcdMembers(session.place("etcd")))
            theirs = [Probe(side=ETCD, figures=(figure,), take=_puts(session, etcd, role)) for role, figure in ONE.items()]
            session.interleave([probe for pair in zip(pairs, theirs, strict=True) for probe in pair])
        session.interleave([ours(READS, "follower", "per_s", 256, reads=True)])


BENCH = Bench(name="log", about="proposals of 300 bytes from inside a member's process, and etcd's puts", figures=FIGURES, run=run)


async def _at(members: list[LogServer], role: str) -> LogServer:
    leader = await find_leader(members)
    return leader if role == "leader" else next(member for member in members if member is not leader)


async def _check(members: list[LogServer], before: list[int], least: int) -> None:
    """Every member has applied what was answered."""
    for _ in range(100):
        grown = [state["count"] - was for state, was in zip([await one.ask(do="status") for one in members], before, strict=True)]
        if min(grown) >= least:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{least} and more proposals were answered, the members have applied {grown}")


def _puts(session: Session, etcd: EtcdMembers, role: str) -> Callable[[], Mapping[Figure, float]]:
    def take() -> Mapping[Figure, float]:
        leader = etcd.leader()
        server = leader if role == "leader" else next(name for name in NAMES if name != leader)
        puts = (tuple(message((1, f"k/{n:06d}".encode()), (2, b"x" * 300)) for n in range(1000)),)
        load = Load(target=etcd.target(server), clients=puts, seconds=session.load_s, grpc="/etcdserverpb.KV/Put")
        return {ONE[role]: apply(load).p50_ms}

    return take
