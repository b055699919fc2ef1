"""What a small cluster costs while nothing happens: three servers, three agents, twenty pods; etcd's three members beside it.

How dear a wake-up is differs from machine to machine, by ten and more: what an event loop takes here that wakes as often as a heartbeat is
sent, and does nothing, is told beside the figures.
"""

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from kago.cli.local import KagoProcess
from raft.contract import RaftConfig
from tests.benchmarks.figures import Figure, Goal
from tests.benchmarks.groups import EtcdMembers, Process, why_no_etcd
from tests.benchmarks.machine import cpu_s, resident_mb
from tests.benchmarks.session import KAGO, Bench, Probe, Session
from tests.e2e.harness import Harness

ETCD = "etcd"
PEERS = {"a server": ETCD, "an agent": ""}
MOST_CPU, MOST_MEMORY = Goal(at_least=False, plus=1.0), Goal(at_least=False, plus=80.0)
CPU = {who: Figure(name=f"idle, CPU of {who}", unit="% of a core", peer=peer, goal=MOST_CPU) for who, peer in PEERS.items()}
MEMORY = {who: Figure(name=f"idle, memory of {who}", unit="MB", peer=peer, goal=MOST_MEMORY) for who, peer in PEERS.items()}
FIGURES = (*CPU.values(), *MEMORY.values())
PODS = 20
SETTLE_S = 10.0
EMPTY_LOOP = f"""
import asyncio, time, uvloop
async def doze(times):
    for _ in range(times):
        await asyncio.sleep({RaftConfig(me="", members=()).heartbeat_s})
async def main():
    await doze(40)
    cpu, began = time.process_time(), time.monotonic()
    await doze(100)
    print(100 * (time.process_time() - cpu) / (time.monotonic() - began))
uvloop.run(main())
"""


def run(session: Session) -> None:
    seconds = 5.0 if session.quick else 30.0
    harness = Harness(session.place("idle"), servers=3, agents=3)
    with ExitStack() as stack:
        stack.callback(harness.close)
        harness.bring_up()
        harness.apply("steady", replicas=PODS)

        def ours() -> Mapping[Figure, float]:
            assert len([pod for pod in harness.pods("steady") if pod["status"] == "running"]) == PODS
            return _spent({"a server": harness.servers, "an agent": harness.agents}, seconds)

        probes = [Probe(side=KAGO, figures=FIGURES, take=ours)]
        if why := why_no_etcd():
            session.miss((CPU["a server"], MEMORY["a server"]), ETCD, why)
        else:
            etcd = stack.enter_context(EtcdMembers(session.place("etcd")))
            members = {"a server": tuple(etcd.processes.values())}
            probes.append(Probe(side=ETCD, figures=(CPU["a server"], MEMORY["a server"]), take=lambda: _spent(members, seconds)))
        time.sleep(SETTLE_S)
        session.interleave(probes)
        empty = float(subprocess.run([sys.executable, "-c", EMPTY_LOOP], capture_output=True, check=True).stdout)
        session.remark(CPU["a server"], f"an event loop that wakes at each heartbeat and does nothing takes {empty:.1f} % of a core here")


def _spent(parties: Mapping[str, Sequence[KagoProcess | Process]], seconds: float) -> dict[Figure, float]:
    """Of each party the dearest process."""
    before = {process.pid: cpu_s(process.pid) for processes in parties.values() for process in processes}
    time.sleep(seconds)
    found = {}
    for who, processes in parties.items():
        # The kernel counts in hundredths: their difference is one again.
        found[CPU[who]] = max(100 * round(cpu_s(process.pid) - before[process.pid], 2) / seconds for process in processes)
        found[MEMORY[who]] = max(resident_mb(process.pid) for process in processes)
    return found


BENCH = Bench(name="idle", about="three servers, three agents, twenty pods, and nothing to do", figures=FIGURES, run=run)
