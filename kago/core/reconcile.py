"""The leader's round: what changed since the last one, taken through the controllers and then the scheduler, as commands to submit.

A round costs what changed. A key stays marked until a round finds nothing to do for it, so that a command that was lost, refused or
cut off by a limit is decided again on what the tables say then.
"""

from collections.abc import Iterable
from itertools import islice
from operator import attrgetter

from msgspec import Struct

from kago.core.controllers.cleanup import forget_nodes, remove_finished
from kago.core.controllers.eviction import Liveness, mark_nodes
from kago.core.controllers.rollout import roll_out
from kago.core.model.deployment import Deployment, Strategy
from kago.core.model.node import Node, NodeStatus
from kago.core.model.pod import Pod, PodStatus
from kago.core.scheduler.plan import Plan, Scheduler
from kago.core.state.changes import Change, Put
from kago.core.state.commands import MAX_PODS_PER_COMMAND, AnyCommand, AssignPods, CreatePods, ExplainPods, MarkNodes, RemovePods, StopPods
from kago.core.state.tables import Tables

MAX_COMMANDS_PER_ROUND = 20
MAX_PODS_PER_ROUND = 2_000
"""Its commands share an entry of the log: what they touch is applied by every server in one go, while which it does nothing else."""
SCHEDULER_SHARE = 0.4
"""Of both, left to the scheduler by the controllers."""
_FINISHED = (PodStatus.SUCCEEDED, PodStatus.FAILED)


class Round(Struct, frozen=True):
    commands: tuple[AnyCommand, ...] = ()
    """To be submitted in this order; when they are applied, the next round is due at once."""
    wake_at: float | None = None
    """When the next round is due though nothing changes (monotonic seconds)."""


class _Room:
    """How much a round may still ask for."""

    def __init__(self, commands: int, pods: int) -> None:
        self.commands, self.pods = commands, pods

    def take(self, wanted: Iterable[AnyCommand]) -> list[AnyCommand]:
        """The first of them, as many as there is room for."""
        taken: list[AnyCommand] = []
        for command in wanted:
            pods = _pods_of(command)
            if not self.commands or pods > self.pods:
                self.commands = 0
                break
            self.commands, self.pods = self.commands - 1, self.pods - pods
            taken.append(command)
        return taken


class Reconciler:
    """Keeps what changed between rounds. Only a leader's is asked for rounds; after gaining leadership it is reset first."""

    def __init__(self, *, strategy: Strategy, node_gc_s: float = 24 * 3600.0) -> None:
        self._node_gc_s = node_gc_s
        self._scheduler = Scheduler(strategy)
        self._tables: Tables | None = None
        self._forget()

    def reset(self, tables: Tables) -> None:
        """Everything may have changed: after a restore, and on gaining leadership. `tables` are read by `observe` from now on."""
        self._forget()
        self._tables = tables
        self._scheduler.reset(tables)
        self._deployments.update(dict.fromkeys(tables.deployments))
        for node in tables.nodes.values():
            self._observe_node(node)
        # Not one by one: with 150,000 pods a new leader would be silent for too long.
        self._finished_pods.update((id, None) for id, pod in tables.pods.items() if pod.status in _FINISHED)

    def observe(self, changes: Iterable[Change]) -> None:
        """Mark what these changes touch. Called after each entry, with the tables already changed; nothing before the first reset."""
        if self._tables is None:
            return
        for change in changes:
            self._scheduler.observe(change, self._tables)
            thing = change.after if isinstance(change, Put) else change.before
            if isinstance(thing, Pod):
                self._deployments[thing.deployment_name] = None
                self._observe_pod(thing)
                if not isinstance(change, Put):
                    self._ahead.pop(thing.id, None)
            elif isinstance(thing, Deployment):
                self._deployments[thing.name] = None
            elif isinstance(thing, Node):
                self._observe_node(thing)

    def round(self, tables: Tables, liveness: Liveness, *, now: float, monotonic: float) -> Round:
        """The commands that are due, bounded in number, and when to ask again."""
        waits: list[float | None] = []
        room = _Room(int(MAX_COMMANDS_PER_ROUND * (1 - SCHEDULER_SHARE)), int(MAX_PODS_PER_ROUND * (1 - SCHEDULER_SHARE)))
        commands = room.take(mark_nodes(tables, liveness))
        commands += self._roll_out(tables, room, now=now, monotonic=monotonic)
        commands += self._clean_up(tables, room, waits, now=now)
        room = _Room(MAX_COMMANDS_PER_ROUND - len(commands), MAX_PODS_PER_ROUND - sum(map(_pods_of, commands)))
        most = min(room.commands * MAX_PODS_PER_COMMAND, room.pods)
        plan = self._scheduler.plan(tables, monotonic=monotonic, max_assignments=most, max_unplaced=most)
        commands += room.take(_placements(tables, plan))
        if commands or plan.cut:
            return Round(tuple(commands), monotonic)
        due = [*self._later.values(), *(monotonic + wait for wait in waits if wait is not None)]
        due += [at for at in (plan.again_at, liveness.next_expiry) if at is not None]
        return Round((), min(due, default=None))

    def _forget(self) -> None:
        self._deployments: dict[str, None] = {}
        self._later: dict[str, float] = {}
        """When (monotonic seconds) to look at a deployment again although nothing of it changes until then."""
        self._ahead: dict[str, tuple[float | None, float]] = {}
        """Pods that became ready in the future by our clock: that stamp, and when (monotonic seconds) we saw it first."""
        self._unknown_nodes: dict[str, None] = {}
        self._finished_pods: dict[str, None] = {}

    def _observe_node(self, node: Node) -> None:
        if node.status is NodeStatus.UNKNOWN:
            self._unknown_nodes[node.name] = None
        else:
            self._unknown_nodes.pop(node.name, None)

    def _observe_pod(self, pod: Pod) -> None:
        if pod.status in _FINISHED:
            self._finished_pods[pod.id] = None

    def _roll_out(self, tables: Tables, room: _Room, *, now: float, monotonic: float) -> list[AnyCommand]:
        commands: list[AnyCommand] = []
        self._deployments.update({name: None for name, due in self._later.items() if due <= monotonic})
        for name in list(self._deployments):
            if not room.commands:
                break
            del self._deployments[name]
            self._later.pop(name, None)
            deployment = tables.deployments.get(name)
            if deployment is None:
                continue
            step = roll_out(tables, deployment, ready_s=lambda pod: self._ready_s(pod, now, monotonic))
            commands += room.take(step.commands)
            if step.wait_s is not None:
                self._later[name] = monotonic + step.wait_s
            if step.commands:
                # Behind the others, so that a busy one keeps nobody waiting.
                self._deployments[name] = None
        return commands

    def _ready_s(self, pod: Pod, now: float, monotonic: float) -> float:
        """For how long `pod` is ready. The stamp is another server's: by one ahead of our clock a rollout would stand still each time."""
        age_s = now - pod.ready_at if pod.ready_at is not None else 0.0
        if age_s >= 0:
            return age_s
        seen = self._ahead.get(pod.id)
        if seen is None or seen[0] != pod.ready_at:
            seen = self._ahead[pod.id] = (pod.ready_at, monotonic)
        return monotonic - seen[1]

    def _clean_up(self, tables: Tables, room: _Room, waits: list[float | None], *, now: float) -> list[AnyCommand]:
        self._unknown_nodes = {name: None for name in self._unknown_nodes if name in tables.nodes}
        self._finished_pods = {id: None for id in self._finished_pods if id in tables.pods}
        deletions, next_node_s = forget_nodes(tables, self._unknown_nodes, now=now, node_gc_s=self._node_gc_s)
        removals, next_pod_s = remove_finished(tables, self._finished_pods, now=now)
        waits += [next_node_s, next_pod_s]
        return room.take([*deletions, *removals])


def _pods_of(command: AnyCommand) -> int:
    """How many it touches."""
    match command:
        case CreatePods(count=count):
            return count
        case StopPods(ids=ids) | RemovePods(ids=ids):
            return len(ids)
        case AssignPods(assignments=assignments):
            return len(assignments)
        case ExplainPods(pods=pods):
            return len(pods)
        case MarkNodes():
            return MAX_PODS_PER_COMMAND  # Those of the nodes that are lost go with them.
    return 1


def _placements(tables: Tables, plan: Plan) -> list[AnyCommand]:
    epoch = tables.cluster.epoch
    # All pods of a node together: then its use changes once, or twice where a limit comes between, and not once for each pod.
    assignments, unplaced = iter(sorted(plan.assignments, key=attrgetter("node_name"))), iter(plan.unplaced)
    commands: list[AnyCommand] = []
    while bound := tuple(islice(assignments, MAX_PODS_PER_COMMAND)):
        commands.append(AssignPods(epoch=epoch, assignments=bound))
    while told := tuple(islice(unplaced, MAX_PODS_PER_COMMAND)):
        commands.append(ExplainPods(epoch=epoch, pods=told))
    return commands
