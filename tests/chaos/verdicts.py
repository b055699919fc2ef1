"""What must hold after every fault, judged from the record of calls and from the machines, apart from the code that is judged."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from msgspec import Struct

from tests.chaos.cluster import SERVERS, Box, ChaosCluster
from tests.chaos.load import Call, Load

QUIET_S = 30.0


class Findings(Struct, kw_only=True):
    """Empty where every promise was kept."""

    lost: list[str] = []
    doubled: list[str] = []
    restarted: list[str] = []
    """Containers restarted, moved or ended although the fault did not touch them."""
    orphaned: list[str] = []
    """Containers of no pod, pods without a container, two containers of one pod."""
    other: list[str] = []

    def total(self) -> int:
        return sum(len(getattr(self, name)) for name in self.__struct_fields__)


def check_state(cluster: ChaosCluster, load: Load, findings: Findings) -> None:
    """Every acknowledged write is there, once, on every server; the record is linearizable. The load has stopped."""
    findings.other += load.surprises
    states: dict[str, dict[str, dict[str, Any]]] = {}
    for server in SERVERS:
        answer = cluster.until(f"{server} to list", lambda server=server: _listing(cluster, server))  # type: ignore[misc]
        states[server] = {one["name"]: one for one in answer.body}
        for call in (call for call in load.calls if call.kind == "create" and _acknowledged(call)):
            if call.key not in states[server]:
                findings.lost.append(f"{call.key}, acknowledged by {call.server}, is not on {server}")
        for name in states[server]:
            if any(c.key == name and c.kind == "create" and c.refused for c in load.calls):
                findings.doubled.append(f"{name} is on {server}, although its making was refused as certainly not done")
    wanted = [{name: one["spec_version"] for name, one in state.items()} for state in states.values()]
    if wanted[1:] != wanted[:-1]:
        findings.other.append(f"the servers differ in {_differences(states)}")
    for register in load.registers:
        findings_of_register(load.calls, register, states[SERVERS[0]].get(register), findings)


def _listing(cluster: ChaosCluster, server: str) -> Any:
    answer = cluster.ask(server, "GET", "/deployments")
    return answer if answer is not None and answer.status == 200 else None


def findings_of_register(calls: Sequence[Call], register: str, final: Mapping[str, Any] | None, findings: Findings) -> None:
    """Count the revisions: each write that was done made one, none made two."""
    writes = [call for call in calls if call.key == register and call.kind == "write"]
    sure, maybe = sum(map(_acknowledged, writes)), sum(not call.refused for call in writes)
    if final is None:
        findings.lost.append(f"{register} is gone")
        return
    done = final["revision"] - 1
    if done < sure:
        findings.lost.append(f"{register}: {sure} writes acknowledged, {done} done")
    if done > maybe:
        findings.doubled.append(f"{register}: {maybe} writes sent, {done} done")


def _acknowledged(call: Call) -> bool:
    return call.returned_at is not None and not call.refused


def _differences(states: Mapping[str, Mapping[str, Any]]) -> str:
    names = sorted({name for state in states.values() for name in state})
    versions = {name: [state.get(name, {}).get("spec_version") for state in states.values()] for name in names}
    return str({name: found for name, found in versions.items() if len(set(found)) > 1})


def check_nodes(cluster: ChaosCluster, before: Sequence[Box], touched: Collection[str], findings: Findings) -> None:
    """What runs is what is wanted, once each, within a bounded time; what was not `touched` (pod names) runs as it did `before`."""
    try:
        cluster.until("what runs to be what is wanted", lambda: not difference(cluster), timeout_s=QUIET_S)
    except AssertionError:
        findings.orphaned += difference(cluster)
    now = set(cluster.boxes())
    findings.restarted += [f"{box.pod_name} on {box.node}" for box in before if box.pod_name not in touched and box not in now]


def difference(cluster: ChaosCluster) -> list[str]:
    """Everything that runs and is not wanted, is wanted and does not run, or is in two places."""
    pods = cluster.get("/pods")
    if pods is None:
        return ["no server lists the pods"]
    bound = {pod["id"]: pod["node_name"] for pod in pods}
    wanted = {pod["id"] for pod in pods if pod["desired"] == "running"}
    boxes = cluster.boxes()
    counts = Counter(box.pod_id for box in boxes)
    found = [f"{box.pod_name} runs on {box.node}, where it is not bound" for box in boxes if bound.get(box.pod_id) != box.node]
    found += [f"pod {pod_id} has {count} containers" for pod_id, count in counts.items() if count > 1]
    found += [f"pod {pod['name']} does not run" for pod in pods if pod["id"] in wanted and (not counts[pod["id"]] or not pod["ready"])]
    return found + [f"pod {pod['name']} is to stop" for pod in pods if pod["id"] not in wanted]


def two_of_a_pod(boxes: Sequence[Box]) -> list[str]:
    """Pods that run more than once at this moment."""
    return [f"pod {pod_id} has {count} containers" for pod_id, count in Counter(box.pod_id for box in boxes).items() if count > 1]
