"""Injects faults one after the other into one cluster under load, and judges after each."""

import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec import Struct

from tests.chaos.cluster import SERVERS, ChaosCluster
from tests.chaos.load import Load, longest_gap
from tests.chaos.record import check_record
from tests.chaos.stage import STEADY, Fault, Stage
from tests.chaos.user import Connection
from tests.chaos.verdicts import Findings, check_nodes, check_state, difference

WARM_S = 1.0
AFTER_S = 0.7
IMAGE = "chaos:1"
REPLICAS = 4


class Injected(Struct, frozen=True, kw_only=True):
    """One fault, and what came of it."""

    fault: str
    at: float
    """Seconds since the epoch."""
    calls: int
    acknowledged: int
    unknown: int
    gap_s: float
    """The longest time in which no write of anybody was acknowledged."""
    healed_s: float
    """From when the fault was taken away until every server follows and every node is ready."""
    findings: Findings
    undecided: int = 0
    """Registers whose record the general checker gave up on; the one by index had its say."""


class Campaign:
    """One cluster, made anew where a fault left it unwell."""

    def __init__(self, directory: Path, *, docker: bool, secured: bool = False, seed: int, note: Callable[[Injected], None]) -> None:
        self._directory = directory
        self._docker = docker
        self._secured = secured
        self._dice = random.Random(seed)
        self._note = note
        self._count = 0
        self._cluster: ChaosCluster | None = None

    def run(self, faults: Sequence[Fault], *, rounds: int, until: float) -> None:
        """`rounds` of all of them, in another order each, at most until then (monotonic)."""
        for _ in range(rounds):
            order = list(faults)
            self._dice.shuffle(order)
            for fault in order:
                if time.monotonic() > until:
                    return
                self._note(self._injected(fault))

    def close(self) -> None:
        if self._cluster is not None:
            self._cluster.close()
            self._cluster = None

    def _whole(self) -> ChaosCluster:
        if self._cluster is None:
            self._count += 1
            cluster = self._cluster = ChaosCluster(
                self._directory / f"cluster-{self._count}", with_docker=self._docker, secured=self._secured
            )
            cluster.start()
            for engine in cluster.engines.values():
                engine.make_image(IMAGE, marker="chaos")
            deploy_steady(cluster)
        return self._cluster

    def _injected(self, fault: Fault) -> Injected:
        self._count += 1
        findings = Findings()
        cluster = self._whole()
        load = Load(cluster.ways, mark=f"f{self._count}", dice=random.Random(self._dice.random()))
        stage = Stage(cluster, self._dice, findings)
        began, healed_s, gap_s, undecided = time.time(), 0.0, 0.0, 0
        try:
            if fault.prepare is not None:
                fault.prepare(stage)
                cluster.until("what runs to be what is wanted", lambda: not difference(cluster))
            before = cluster.boxes()
            cluster.user.do(load.prepare())
            running = cluster.user.begin(load.run())
            time.sleep(WARM_S)
            since = time.monotonic()
            try:
                fault.run(stage)
                ended = time.monotonic()
                cluster.until("the cluster to heal", cluster.healthy)
                healed_s = time.monotonic() - ended
                time.sleep(AFTER_S)
            finally:
                gap_s = longest_gap(load.calls, since=since, until=time.monotonic())
                cluster.user.loop.call_soon_threadsafe(load.stop)
                running.result(30)
            check_state(cluster, load, findings)
            undecided = check_record(load, findings)
            check_nodes(cluster, before, stage.touched, findings)
            cluster.user.do(_clear(cluster, load))
        except Exception as error:  # whatever stands in the way of going on is a finding, and the next fault gets a cluster of its own
            findings.other.append(f"{type(error).__name__}: {error}")
        findings.other += cluster.tracebacks()
        if findings.total():
            self._keep(fault, findings, load)
            self.close()
        calls = load.calls
        return Injected(
            fault=fault.name,
            at=began,
            calls=len(calls),
            acknowledged=sum(call.returned_at is not None and not call.refused for call in calls),
            unknown=sum(call.returned_at is None and call.kind != "read" for call in calls),
            gap_s=gap_s,
            healed_s=healed_s,
            findings=findings,
            undecided=undecided,
        )

    def _keep(self, fault: Fault, findings: Findings, load: Load) -> None:
        """What a person needs to find out why."""
        lines = [f"{kind}: {text}" for kind in findings.__struct_fields__ for text in getattr(findings, kind)]
        report = self._directory / f"finding-{self._count}-{fault.name}.txt"
        report.write_text("\n".join([*lines, "", *(str(call) for call in load.calls)]))
        print(f"{fault.name}: {len(lines)} findings, see {report}\n  " + "\n  ".join(line[:300] for line in lines[:6]), file=sys.stderr)


def deploy_steady(cluster: ChaosCluster, *, name: str = STEADY, replicas: int = REPLICAS, image: str = IMAGE) -> None:
    """What runs all the while. Another image than the usual is asked for at its registry each time."""
    how = {"image": image, "pull_policy": "if-not-present" if image == IMAGE else "always"} if cluster.engines else {"runtime": "process"}
    body = {"name": name, "replicas": replicas, "scheduler": "least-allocated", "stop_grace_s": 1, "command": ["sleep", "1000000"], **how}
    answer = cluster.ask(SERVERS[0], "POST", "/deployments", body | {"resources": {"cpu_millis": 50, "memory_mb": 32}})
    assert answer is not None and answer.status == 201, answer
    cluster.until(f"the pods of {name}", lambda: (cluster.get(f"/deployments/{name}") or {}).get("ready_replicas") == replicas)


async def _clear(cluster: ChaosCluster, load: Load) -> None:
    """Delete what the load made."""
    connection = Connection(cluster.ways[SERVERS[0]])
    for name in [*load.registers, *(call.key for call in load.calls if call.kind == "create")]:
        await connection.ask("DELETE", f"/deployments/{name}")
    connection.close()
