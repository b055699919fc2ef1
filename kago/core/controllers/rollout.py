"""One deployment's pods, from what they are to what is wanted: more, fewer, or of a newer revision.

A pure function of the tables, so that a new leader goes on where the old one stopped. A pod is available when it is ready, one of the
newest revision only after it was so for `min_ready_s`. Two laws hold over every step: never more live pods than replicas + max_surge,
and no pod is stopped whose end would leave fewer available than replicas - max_unavailable. Older revisions are all alike: a rollout
that is turned round half-way is simply another rollout.
"""

from collections.abc import Callable, Iterator
from heapq import nsmallest

from msgspec import Struct
from msgspec.structs import replace

from kago.core.model.deployment import Deployment
from kago.core.model.pod import Pod
from kago.core.state.commands import MAX_PODS_PER_COMMAND, CreatePods, StopPods
from kago.core.state.tables import Tables


class Rollout(Struct, frozen=True):
    commands: tuple[CreatePods | StopPods, ...] = ()
    wait_s: float | None = None
    """In how many seconds to look again although nothing changes: a pod is then ready for long enough."""


def roll_out(tables: Tables, deployment: Deployment, *, ready_s: Callable[[Pod], float]) -> Rollout:
    """The next step for this deployment; none when it is as wanted or has to wait. `ready_s`: for how long a ready pod has been so."""
    if deployment.total_replicas == deployment.updated_replicas == deployment.replicas:
        return Rollout()
    step = _Step(deployment, tables.live_pods(deployment.name), ready_s)
    creates = tuple(_creates(tables, deployment, step.total, step.missing()))
    made = sum(command.count for command in creates)
    commands: tuple[CreatePods | StopPods, ...] = (*creates, *_stops(tables, deployment, step.stops(), step.total + made))
    return Rollout(commands, min(step.waits, default=None) if step.rolling else None)


class _Step:
    """The sums of one step, over all pods once: only those that are down, and of the others those to stop, are worth sorting."""

    def __init__(self, deployment: Deployment, live: list[Pod], ready_s: Callable[[Pod], float]) -> None:
        rolling = deployment.rolling_update
        self._replicas = deployment.replicas
        self._most = deployment.replicas + rolling.max_surge
        self._least = max(deployment.replicas - rolling.max_unavailable, 0)
        self._new_up: list[Pod] = []
        self._new_down: list[Pod] = []
        self._old_up: list[Pod] = []
        self._old_down: list[Pod] = []
        self.waits: list[float] = []
        """Seconds until each of those that are ready, but not for long enough, counts as available."""
        for pod in live:
            if pod.revision != deployment.revision:
                (self._old_up if pod.ready else self._old_down).append(pod)
            elif not pod.ready:
                self._new_down.append(pod)
            elif (left := rolling.min_ready_s - ready_s(pod)) > 0:
                self._new_down.append(pod)
                self.waits.append(left)
            else:
                self._new_up.append(pod)
        self.total, self._count_new = len(live), len(self._new_up) + len(self._new_down)
        self.rolling = self._count_new < self.total

    def missing(self) -> int:
        """How many pods of the newest revision to make now. What this step stops makes room only for the next one."""
        return max(0, min(self._replicas - self._count_new, self._most - self.total))

    def stops(self) -> list[Pod]:
        """The pods to stop now, the least useful first."""
        new_down, old_down = sorted(self._new_down, key=_expendable), sorted(self._old_down, key=_expendable)
        surplus = max(0, self._count_new - self._replicas)
        total, spare = self.total, max(len(self._new_up) + len(self._old_up) - self._least, 0)

        # Those without a node never ran and do not run now; nothing is lost with them.
        unbound = [pod for pod in old_down if pod.node_name is None]
        chosen = unbound + new_down[:surplus]
        old_down, new_down = old_down[len(unbound) :], new_down[surplus:]
        surplus = max(0, len(self._new_up) + len(new_down) - self._replicas)
        total -= len(chosen)

        # An older pod that is down may come up again: keep as many as could still be needed should the new ones never do.
        down = old_down[: max(total - self._least - len(new_down), total - self._most, 0)]
        total -= len(down)

        up = nsmallest(min(surplus, spare), self._new_up, key=_expendable)
        up += nsmallest(spare - len(up), self._old_up, key=_expendable)
        total -= len(up)

        # Limits made tighter half-way: then new ones that are not up go too.
        return chosen + down + up + new_down[: max(total - self._most, 0)]


def _expendable(pod: Pod) -> tuple[bool, bool, int, float, str]:
    """Sorts first what is missed least: without a node, not ready, of the oldest revision, the youngest."""
    return pod.node_name is not None, pod.ready, pod.revision, -pod.created_at, pod.name


def _creates(tables: Tables, deployment: Deployment, total: int, missing: int) -> Iterator[CreatePods]:
    for done in range(0, missing, MAX_PODS_PER_COMMAND):
        yield CreatePods(
            epoch=tables.cluster.epoch,
            deployment_name=deployment.name,
            revision=deployment.revision,
            total_replicas=total + done,
            count=min(MAX_PODS_PER_COMMAND, missing - done),
        )


def _stops(tables: Tables, deployment: Deployment, pods: list[Pod], total: int) -> Iterator[StopPods]:
    """`total` pods are live when the first of these is applied. Each says what it counts on, as it will be after those before it."""
    ready = deployment.ready_replicas
    surplus = [pod for pod in pods if pod.revision == deployment.revision]
    replaced = [pod for pod in pods if pod.revision != deployment.revision]
    for reason, message, chosen in (
        ("ScaledDown", f"deployment {deployment.name} wants {deployment.replicas} pods", surplus),
        ("Replaced", f"revision {deployment.revision} takes over", replaced),
    ):
        for done in range(0, len(chosen), MAX_PODS_PER_COMMAND):
            batch = chosen[done : done + MAX_PODS_PER_COMMAND]
            command = StopPods(epoch=tables.cluster.epoch, ids=tuple(pod.id for pod in batch), reason=reason, message=message)
            if tables.cluster.schema_version >= 2:
                command = replace(
                    command, deployment_name=deployment.name, spec_version=deployment.spec_version, total_replicas=total,
                    ready_replicas=ready,
                )
            total -= len(batch)
            ready -= sum(pod.ready for pod in batch)
            yield command
