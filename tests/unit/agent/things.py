"""Pods, containers and sights for the tables of this directory."""

from typing import Any

from kago.agent.plan import Record, Sight
from kago.agent.runtime import Observed
from kago.core.model.deployment import Runtime
from kago.core.model.pod import Desired, Pod

NOW = 1_000_000.0


def a_pod(pod_id: str = "p1", **fields: Any) -> Pod:
    base: dict[str, Any] = {"name": f"web-{pod_id}", "deployment_name": "web", "revision": 1, "node_name": "n1", "stop_grace_s": 5.0}
    return Pod(id=pod_id, **{**base, **fields})


def stopped(pod_id: str = "p1", **fields: Any) -> Pod:
    return a_pod(pod_id, desired=Desired.STOPPED, **fields)


def running(pod_id: str = "p1", **fields: Any) -> Observed:
    base: dict[str, Any] = {"runtime": Runtime.DOCKER, "ref": f"c-{pod_id}", "run": "r1", "running": True, "started_at": NOW - 10}
    return Observed(pod_id=pod_id, **{**base, **fields})


def ended(pod_id: str = "p1", *, ran_s: float = 2.0, **fields: Any) -> Observed:
    base: dict[str, Any] = {"running": False, "started_at": NOW - ran_s, "finished_at": NOW, "exit_code": 1}
    return running(pod_id, **{**base, **fields})


def created(pod_id: str = "p1", **fields: Any) -> Observed:
    """A container that never ran."""
    return running(pod_id, **{"running": False, "run": "", "started_at": None, **fields})


def sight(*pods: Pod, seen: tuple[Observed, ...] = (), records: dict[str, Record] | None = None, **fields: Any) -> Sight:
    base: dict[str, Any] = {"offered": frozenset(Runtime), "trusted": True}
    return Sight(pods={pod.id: pod for pod in pods}, observed=seen, records=records or {}, **{**base, **fields})
