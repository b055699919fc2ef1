"""What a small cluster costs while nothing happens: three servers, three agents, twenty pods."""

import time
from collections.abc import Mapping, Sequence

from kago.cli.local import KagoProcess
from tests.benchmarks.figures import Figure, Goal
from tests.benchmarks.machine import cpu_s, resident_mb
from tests.benchmarks.session import KAGO, Bench, Probe, Session
from tests.e2e.harness import Harness

CPU = {who: Figure(name=f"idle, CPU of {who}", unit="% of a core", goal=Goal(at_least=False, plus=1.0)) for who in ("a server", "an agent")}
MEMORY = {who: Figure(name=f"idle, memory of {who}", unit="MB", goal=Goal(at_least=False, plus=80.0)) for who in ("a server", "an agent")}
FIGURES = (*CPU.values(), *MEMORY.values())
PODS = 20
SETTLE_S = 10.0


def run(session: Session) -> None:
    seconds = 5.0 if session.quick else 30.0
    harness = Harness(session.place("idle"), servers=3, agents=3)
    try:
        harness.bring_up()
        harness.apply("steady", replicas=PODS)
        time.sleep(SETTLE_S)

        def take() -> Mapping[Figure, float]:
            assert len([pod for pod in harness.pods("steady") if pod["status"] == "running"]) == PODS
            parties: Mapping[str, Sequence[KagoProcess]] = {"a server": harness.servers, "an agent": harness.agents}
            before = {process.pid: cpu_s(process.pid) for processes in parties.values() for process in processes}
            time.sleep(seconds)
            found = {}
            for who, processes in parties.items():  # the dearest of the three
                found[CPU[who]] = max(100 * (cpu_s(process.pid) - before[process.pid]) / seconds for process in processes)
                found[MEMORY[who]] = max(resident_mb(process.pid) for process in processes)
            return found

        session.interleave([Probe(side=KAGO, figures=FIGURES, take=take)])
    finally:
        harness.close()


BENCH = Bench(name="idle", about="three servers, three agents, twenty pods, and nothing to do", figures=FIGURES, run=run)
