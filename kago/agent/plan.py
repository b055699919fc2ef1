"""What an agent does next, as a pure function: wanted pods x containers seen x what it remembers -> actions.

A crashed container is started again in place with a delay of 1 s, doubling to 60 s with each quick exit or failed start. The
count of quick exits begins anew after a run of at least 60 s that also lasted twice the delay before it (the rule by which a
container that dies every 70 s still slows down to one start in 30 s). The delay is kept as a point in time by the wall clock,
since it must survive the agent; one further away than the longest delay can only be a clock that was set back, and is ignored.
"""

from collections.abc import Collection, Mapping, Sequence

import msgspec
from msgspec import Struct

from kago.agent.runtime import Observed
from kago.core.model.deployment import Runtime
from kago.core.model.pod import Desired, Pod

FIRST_DELAY_S = 1.0
MAX_DELAY_S = 60.0
HEALTHY_AFTER_S = 60.0
CRASH_LOOP_FROM = 2
"""Quick exits in a row from which it is called CrashLoopBackOff."""


class Record(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the agent remembers about one pod, on disk too."""

    run: str = ""
    """The last start seen, so that each is counted once whoever counts."""
    ended: bool = False
    """Whether the end of that run was counted."""
    restarts: int = 0
    failures: int = 0
    """Quick exits and failed starts in a row."""
    not_before: float = 0.0
    """Earliest next start, seconds since the epoch."""
    exit_code: int | None = None
    reason: str = ""
    message: str = ""


class Start(Struct, frozen=True, kw_only=True):
    """Start the pod's container, a new one where there is none."""

    pod: Pod


class Remove(Struct, frozen=True, kw_only=True):
    """Stop the container if it runs, then remove it."""

    observed: Observed
    grace_s: float


Action = Start | Remove


class Plan(Struct, frozen=True, kw_only=True):
    actions: tuple[Action, ...]
    wake_at: float | None
    """When a delay ends (seconds since the epoch)."""


class Sight(Struct, frozen=True, kw_only=True):
    """What an agent knows at one moment."""

    pods: Mapping[str, Pod]
    """Bound to this node, by id."""
    observed: Sequence[Observed]
    records: Mapping[str, Record]
    offered: frozenset[Runtime]
    """Runtimes this node has."""
    blind: frozenset[Runtime] = frozenset()
    """Of these, the ones that do not answer now: unknown is not gone."""
    trusted: bool = False
    """Whether `pods` is a master's whole view and none older than one seen before; only then is an unwanted container removed."""


def plan(sight: Sight, *, busy: Collection[str], now: float) -> Plan:
    """The next step of every pod that has none under way (`busy`: pod ids)."""
    actions: list[Action] = []
    waits: list[float] = []
    by_pod = containers_by_pod(sight.observed)
    for pod_id in sorted(by_pod.keys() | sight.pods.keys()):
        if pod_id in busy:
            continue
        pod, containers = sight.pods.get(pod_id), by_pod.get(pod_id, [])
        if (containers[0].runtime if containers else pod.runtime if pod else None) in sight.blind:
            continue
        if pod is None:
            actions += [Remove(observed=one, grace_s=one.grace_s) for one in containers if sight.trusted]
            continue
        surplus = containers if pod.desired is Desired.STOPPED else containers[1:]
        actions += [Remove(observed=one, grace_s=pod.stop_grace_s) for one in surplus]
        if surplus or pod.desired is Desired.STOPPED or pod.runtime not in sight.offered or (containers and containers[0].running):
            continue
        due = due_at(sight.records.get(pod_id, Record()), now)
        if due <= now:
            actions.append(Start(pod=pod))
        else:
            waits.append(due)
    return Plan(actions=tuple(actions), wake_at=min(waits, default=None))


def containers_by_pod(observed: Sequence[Observed]) -> dict[str, list[Observed]]:
    """Containers of each pod, the one to keep first: there should be one, but a person can copy labels."""
    by_pod: dict[str, list[Observed]] = {}
    for one in sorted(observed, key=lambda o: (not o.running, o.started_at or 0.0, o.ref)):
        by_pod.setdefault(one.pod_id, []).append(one)
    return by_pod


def due_at(record: Record, now: float) -> float:
    """When the pod may be started next."""
    return record.not_before if record.not_before - now <= MAX_DELAY_S else now


def delay_s(failures: int) -> float:
    """After that many failures in a row."""
    return min(MAX_DELAY_S, FIRST_DELAY_S * 2.0 ** min(failures - 1, 16)) if failures > 0 else 0.0


def uncounted_end(record: Record, observed: Observed) -> bool:
    """Whether `observed` is an end that `after_sight` would count; then its last output is worth fetching."""
    return bool(observed.run) and not observed.running and not (record.run == observed.run and record.ended)


def after_sight(record: Record, observed: Observed, output: str, *, now: float) -> Record:
    """Count a start or an end not counted yet. Done by what is seen, so no crash of the agent can lose or double one."""
    if observed.run and observed.run != record.run:
        restarts = record.restarts + 1 if record.run else 0
        record = msgspec.structs.replace(record, run=observed.run, ended=False, restarts=restarts, reason="", message="")
    if not uncounted_end(record, observed):
        return record
    began, ended = observed.started_at, observed.finished_at
    ran_s = max(0.0, ended - began) if began is not None and ended is not None else 0.0
    healthy = ran_s >= max(HEALTHY_AFTER_S, 2 * delay_s(record.failures))
    failures = 1 if healthy else record.failures + 1
    delay = delay_s(failures)
    what = "OOMKilled" if observed.oom_killed else "Completed" if observed.exit_code == 0 else "Error"
    message = f"{_ending(observed)} after {ran_s:.0f} s; next start {delay:g} s later"
    return msgspec.structs.replace(
        record,
        ended=True,
        failures=failures,
        not_before=(ended if ended is not None and now - delay <= ended <= now else now) + delay,
        exit_code=observed.exit_code,
        reason="CrashLoopBackOff" if failures >= CRASH_LOOP_FROM else what,
        message=f"{message}\n{output}" if output else message,
    )


def after_failure(record: Record, reason: str, message: str, *, now: float) -> Record:
    """A start that did not come about."""
    failures = record.failures + 1
    if reason == "ErrImagePull" and failures > 1:
        reason = "ImagePullBackOff"
    delay = delay_s(failures)
    message = f"{message}; next try {delay:g} s later"
    return msgspec.structs.replace(record, failures=failures, not_before=now + delay, reason=reason, message=message)


def _ending(observed: Observed) -> str:
    words = "exit code unknown" if observed.exit_code is None else f"exit code {observed.exit_code}"
    if observed.oom_killed:
        words = f"OOMKilled (over its memory limit), {words}"
    return f"{words} ({observed.detail})" if observed.detail else words
