"""One round's placement of pods on nodes, as a value: what is bound where, and why the rest is not.

First come, first served: pods are placed in the order of their making, then of their names. A pod that fits nowhere waits with all of
its shape and is looked at again only once some node can take more than it could.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from math import inf

from msgspec import Struct

from kago.core.model.deployment import Strategy
from kago.core.model.node import Node
from kago.core.model.pod import Pod
from kago.core.scheduler.capacity import Capacity
from kago.core.scheduler.filters import UNSCHEDULABLE, Room, Shape, explain, shape_of
from kago.core.state.changes import Change, Put
from kago.core.state.commands import Assignment, Unplaced
from kago.core.state.tables import Tables

REWORD_S = 10.0
"""A waiting pod's reason is brought up to date this often at most…"""
REWORDED_PER_S = 100
"""…and less often where that many pods share it."""
MAX_ASKED = 20_000
"""Nodes asked in one plan why they take no pods, over all messages worded in it, the first aside; the rest wait for the next."""

Turn = tuple[float, str, str]
"""When a pod was made, its name and its id: their order is that in which pods are placed."""


class Plan(Struct, frozen=True):
    assignments: tuple[Assignment, ...] = ()
    unplaced: tuple[Unplaced, ...] = ()
    again_at: float | None = None
    """When to plan again though nothing changes (monotonic seconds)."""
    cut: bool = False
    """Limits left something undone that could be done now."""


class Waiting:
    """Pods of one shape that no node takes, in the order they came, and what they were told."""

    __slots__ = ("disordered", "ids", "message", "stale", "untold", "worded_at")

    def __init__(self) -> None:
        self.ids: dict[str, None] = {}
        self.untold: dict[str, None] = {}
        self.message = ""
        self.worded_at = -inf
        self.disordered = False
        """A pod came back that was here before some of the others."""
        self.stale = True
        """Nodes have changed since the message was worded, or it was not worded yet."""

    def rewordable_at(self) -> float:
        return self.worded_at + max(REWORD_S, len(self.ids) / REWORDED_PER_S)


class Scheduler:
    """Plans over the tables; keeps the free capacity and the waiting pods between plans, and places pods that are alike at once."""

    def __init__(self, strategy: Strategy) -> None:
        self._strategy = strategy
        self._reset()

    def _reset(self) -> None:
        self._capacity = Capacity()
        self._changed_nodes: dict[str, None] = {}
        self._queue: list[Turn] = []
        """Pods to be looked at, in their order. One that is gone or bound meanwhile is passed over when its turn comes."""
        self._fresh: list[Turn] = []
        """Such as came since the last plan."""
        self._planned: dict[str, tuple[str, str]] = {}
        """By pod id, the node and the deployment of what the last plan placed and nobody has bound yet."""
        self._waiting: dict[Shape, Waiting] = {}
        self._shapes: dict[str, Shape] = {}

    def reset(self, tables: Tables) -> None:
        """Know only what the tables say: after a restore and on gaining leadership."""
        self._reset()
        self._changed_nodes.update(dict.fromkeys(tables.nodes))
        self._fresh += [_turn(tables.pods[id]) for id in tables.unplaced_ids]
        for deployment_name, held in tables.spread():
            self._capacity.held(deployment_name).update(held)

    def observe(self, change: Change, tables: Tables) -> None:
        """Take note of a change; `tables` are those after it."""
        before, after = change.before, change.after if isinstance(change, Put) else None
        thing = after or before
        if isinstance(thing, Node):
            self._changed_nodes[thing.name] = None
        elif isinstance(thing, Pod):
            self._observe_pod(before if isinstance(before, Pod) else None, after if isinstance(after, Pod) else None)
        elif getattr(before, "scheduler", None) != getattr(after, "scheduler", None):
            # Another strategy is another shape: its waiting pods queue anew.
            for pod in tables.pods_of_deployment(getattr(thing, "name", "")):
                if pod.id in self._shapes:
                    self._forget(pod.id)
                    self._fresh.append(_turn(pod))

    def plan(self, tables: Tables, *, monotonic: float, max_assignments: int, max_unplaced: int) -> Plan:
        """Place what can be placed. The next plan takes back whatever of it was not applied by then."""
        self._settle(tables)
        assignments: list[Assignment] = []
        cut = self._retry(tables, assignments, max_assignments)
        self._line_up()
        drawn = 0
        while drawn < len(self._queue):
            if len(assignments) >= max_assignments:
                cut = True
                break
            run, drawn = self._draw(tables, drawn, max_assignments - len(assignments))
            if run:
                self._place(run, self._shape(run[0], tables), assignments)
        del self._queue[:drawn]
        unplaced, again_at, untold = self._explain(tables, monotonic, max_unplaced)
        return Plan(tuple(assignments), tuple(unplaced), again_at, cut or untold)

    def _observe_pod(self, before: Pod | None, after: Pod | None) -> None:
        pod = after or before
        assert pod is not None
        was, now = before.node_name if before else None, after.node_name if after else None
        if was is not None and was != now:
            self._capacity.release(was, pod.deployment_name)
        if now is not None and was != now:
            self._changed_nodes[now] = None
            if self._planned.get(pod.id) == (now, pod.deployment_name):
                del self._planned[pod.id]
            else:
                self._capacity.hold(now, pod.deployment_name)
        if was is None and (after is None or not after.live or now is not None):
            self._forget(pod.id)
        elif before is None and now is None:
            self._fresh.append(_turn(pod))

    def _settle(self, tables: Tables) -> None:
        """Make the free capacity what the tables say, and queue again the pods of the last plan that it did not bind."""
        capacity = self._capacity
        for node_name, deployment_name in self._planned.values():
            capacity.release(node_name, deployment_name)
            self._changed_nodes[node_name] = None
        for name in self._changed_nodes:
            capacity.put(name, tables.nodes.get(name))
        if self._changed_nodes:
            for waiting in self._waiting.values():
                waiting.stale = True
        self._changed_nodes.clear()
        for pod in _pods(self._planned, tables):
            shape = self._shape(pod, tables)
            if shape in self._waiting:
                self._wait(pod, shape)
                self._waiting[shape].disordered = True
            else:
                self._fresh.append(_turn(pod))
        self._planned.clear()
        capacity.begin()

    def _line_up(self) -> None:
        """Put the fresh pods where they belong in the queue: as a rule behind all others."""
        self._fresh.sort()
        late = bool(self._queue and self._fresh) and self._fresh[0] < self._queue[-1]
        self._queue += self._fresh
        self._fresh.clear()
        if late:
            self._queue.sort()

    def _draw(self, tables: Tables, drawn: int, most: int) -> tuple[list[Pod], int]:
        """The first run of the queue behind those drawn already, and how many are drawn then."""
        run: list[Pod] = []
        while drawn < len(self._queue):
            id = self._queue[drawn][2]
            if id in tables.unplaced_ids:
                pod = tables.pods[id]
                if len(run) == most or (run and not _alike(pod, run[0])):
                    break
                run.append(pod)
            drawn += 1
        return run, drawn

    def _retry(self, tables: Tables, assignments: list[Assignment], most: int) -> bool:
        """Place waiting pods where a node has grown; whether `most` stopped it."""
        if not self._capacity.grown:
            return False
        for shape, waiting in list(self._waiting.items()):
            if not self._capacity.ranking(shape).takes_any():
                continue
            if waiting.disordered:
                waiting.ids = {pod.id: None for pod in sorted(_pods(waiting.ids, tables), key=_turn)}
                waiting.disordered = False
            while waiting.ids:
                if len(assignments) >= most:
                    return True
                run = _first_run(_pods(waiting.ids, tables), most - len(assignments))
                bound = self._bind(run, shape, assignments)
                for pod in run[:bound]:
                    self._forget(pod.id)
                if bound < len(run):
                    break
        self._capacity.grown = False
        return False

    def _place(self, pods: list[Pod], shape: Shape, assignments: list[Assignment]) -> None:
        # Capacity only shrinks while planning: where one pod of a shape did not fit, no later one does.
        bound = 0 if shape in self._waiting else self._bind(pods, shape, assignments)
        if bound < len(pods) and shape not in self._waiting:
            self._waiting[shape] = Waiting()
        for pod in pods[bound:]:
            self._wait(pod, shape)

    def _wait(self, pod: Pod, shape: Shape) -> None:
        waiting = self._waiting[shape]
        waiting.ids[pod.id] = None
        waiting.untold[pod.id] = None
        self._shapes[pod.id] = shape

    def _bind(self, pods: list[Pod], shape: Shape, assignments: list[Assignment]) -> int:
        """Place the first of these pods, of one shape and deployment; how many of them some node took."""
        deployment_name = pods[0].deployment_name
        names = self._capacity.ranking(shape).take(len(pods), deployment_name)
        for pod, name in zip(pods, names, strict=False):
            self._planned[pod.id] = name, deployment_name
            assignments.append(Assignment(pod_id=pod.id, node_name=name))
        return len(names)

    def _explain(self, tables: Tables, monotonic: float, most: int) -> tuple[list[Unplaced], float | None, bool]:
        """What waiting pods are to be told, when a message is due to be worded anew, and whether limits left some untold."""
        told: list[Unplaced] = []
        again_at: float | None = None
        rooms: list[Room] = []
        asked = 0
        for shape, waiting in self._waiting.items():
            if waiting.stale and waiting.rewordable_at() <= monotonic:
                rooms = rooms or list(self._capacity.by_name())
                asked += len(rooms)
                if len(rooms) < asked > MAX_ASKED:
                    return told, again_at, True
                message = explain(rooms, shape)
                if message != waiting.message:
                    waiting.untold.update(waiting.ids)
                waiting.message, waiting.worded_at, waiting.stale = message, monotonic, False
            if waiting.stale:
                again_at = min(again_at or waiting.rewordable_at(), waiting.rewordable_at())
            for pod in list(_pods(waiting.untold, tables)):
                if pod.message == waiting.message and pod.reason == UNSCHEDULABLE:
                    del waiting.untold[pod.id]
                elif len(told) >= most:
                    return told, again_at, True
                else:
                    told.append(Unplaced(pod_id=pod.id, reason=UNSCHEDULABLE, message=waiting.message))
        return told, again_at, False

    def _shape(self, pod: Pod, tables: Tables) -> Shape:
        deployment = tables.deployments.get(pod.deployment_name)
        return shape_of(pod, (deployment.scheduler if deployment else None) or self._strategy)

    def _forget(self, id: str) -> None:
        shape = self._shapes.pop(id, None)
        if shape is None:
            return
        waiting = self._waiting[shape]
        waiting.ids.pop(id, None)
        waiting.untold.pop(id, None)
        if not waiting.ids:
            del self._waiting[shape]


def _turn(pod: Pod) -> Turn:
    return pod.created_at, pod.name, pod.id


def _alike(pod: Pod, other: Pod) -> bool:
    return pod.revision == other.revision and pod.deployment_name == other.deployment_name


def _first_run(pods: Iterable[Pod], most: int) -> list[Pod]:
    """At most so many of the first pods, as far as they are of one deployment."""
    run: list[Pod] = []
    for pod in islice(pods, most):
        if run and pod.deployment_name != run[0].deployment_name:
            break
        run.append(pod)
    return run


def _pods(ids: Iterable[str], tables: Tables) -> Iterator[Pod]:
    """Those of them that still want a node."""
    return (tables.pods[id] for id in ids if id in tables.unplaced_ids)
