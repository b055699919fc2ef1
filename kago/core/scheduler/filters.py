"""What keeps a pod off a node, and the words for it.

A node either takes a pod or is refused by the first filter that objects; the scheduler asks `accepts`, which is quick, and only
a pod that fits nowhere is worth the words of `explain`.
"""

from collections.abc import Iterable

from msgspec import Struct

from kago.core.model.deployment import Runtime, Strategy
from kago.core.model.node import Node, NodeStatus
from kago.core.model.pod import Pod

UNSCHEDULABLE = "Unschedulable"
NO_NODES = "no node has joined the cluster: start an agent (kago agent --name NAME --master URL)"
MAX_REFUSALS = 6
"""Different refusals that one message spells out."""
MAX_NAMES = 5
"""Nodes that one message names for each of them."""


class Shape(Struct, frozen=True):
    """All that matters of a pod for where it may run and what it takes there; pods of one shape are alike to the scheduler."""

    cpu_millis: int
    memory_mb: int
    runtime: Runtime
    selector: tuple[tuple[str, str], ...]
    """The node_selector, sorted by key."""
    strategy: Strategy


def shape_of(pod: Pod, strategy: Strategy) -> Shape:
    selector = tuple(sorted(pod.node_selector.items())) if pod.node_selector else ()
    return Shape(pod.resources.cpu_millis, pod.resources.memory_mb, pod.runtime, selector, strategy)


class Offers:
    """What a node has for pods besides room: the same thing for all nodes that offer the same, so that filters look at it once."""

    __slots__ = ("labels", "runtimes")

    def __init__(self, node: Node) -> None:
        self.labels = node.labels
        self.runtimes = node.runtimes

    def suit(self, shape: Shape) -> bool:
        return shape.runtime in self.runtimes and all(self.labels.get(key) == value for key, value in shape.selector)

    def are_of(self, node: Node) -> bool:
        return self.runtimes == node.runtimes and (self.labels is node.labels or self.labels == node.labels)


class Room:
    """A node as the scheduler sees it: what it offers and what of it is still free, the present plan's pods included."""

    __slots__ = ("cpu", "free_cpu", "free_memory", "memory", "name", "node", "offers", "ready")

    def __init__(self, node: Node, offers: Offers | None = None) -> None:
        self.node = node
        self.name = node.name
        self.offers = offers or Offers(node)
        self.ready = node.status is NodeStatus.READY
        self.cpu = max(node.allocatable.cpu_millis, 1)
        self.memory = max(node.allocatable.memory_mb, 1)
        self.free_cpu = node.available.cpu_millis
        self.free_memory = node.available.memory_mb

    def is_like(self, other: "Room") -> bool:
        """Whether pods find the same in both."""
        mine = self.ready, self.free_cpu, self.free_memory, self.cpu, self.memory, self.offers
        return mine == (other.ready, other.free_cpu, other.free_memory, other.cpu, other.memory, other.offers)


def accepts(room: Room, shape: Shape) -> bool:
    """Whether no filter objects. Says the same as `refusal`, without words."""
    return room.ready and shape.cpu_millis <= room.free_cpu and shape.memory_mb <= room.free_memory and room.offers.suit(shape)


def refusal(room: Room, shape: Shape) -> str:
    """Why this node does not take pods of this shape; empty when it does."""
    return _not_ready(room) or _no_runtime(room, shape) or _not_selected(room, shape) or _too_full(room, shape)


def explain(rooms: Iterable[Room], shape: Shape) -> str:
    """Why no node takes pods of this shape, node by node, those with equal words together; `rooms` in the order of their names."""
    refused: dict[str, list[str]] = {}
    worded: dict[object, str] = {}
    count = 0
    for room in rooms:
        count += 1
        ground = _ground(room, shape)
        words = worded.get(ground)
        if words is None:
            words = worded[ground] = refusal(room, shape)
        refused.setdefault(words, []).append(room.name)
    if not count:
        return NO_NODES
    told = list(refused.items())[:MAX_REFUSALS]
    parts = [f"{_named(names)}: {words}" for words, names in told]
    rest = count - sum(len(names) for _, names in told)
    return f"0/{count} nodes fit: {'; '.join(parts)}" + (f"; and {rest} more" if rest else "")


def _ground(room: Room, shape: Shape) -> object:
    """What the words of a refusal are made of: nodes that have it in common are refused in the same words."""
    if not room.ready:
        return room.node.status, room.node.reason
    short = max(room.free_cpu, 0) if shape.cpu_millis > room.free_cpu else None
    return room.offers, short, max(room.free_memory, 0) if shape.memory_mb > room.free_memory else None


def _named(names: list[str]) -> str:
    return ", ".join(names[:MAX_NAMES]) + (f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else "")


def _not_ready(room: Room) -> str:
    if room.ready:
        return ""
    return f"{room.node.status} ({room.node.reason})" if room.node.reason else str(room.node.status)


def _no_runtime(room: Room, shape: Shape) -> str:
    if shape.runtime in room.node.runtimes:
        return ""
    return f"needs runtime {shape.runtime}, offers {', '.join(room.node.runtimes) or 'none'}"


def _not_selected(room: Room, shape: Shape) -> str:
    missing = [f"{key}={value}" for key, value in shape.selector if room.node.labels.get(key) != value]
    return f"lacks label {', '.join(missing[:MAX_NAMES])}" if missing else ""


def _too_full(room: Room, shape: Shape) -> str:
    parts = []
    if shape.cpu_millis > room.free_cpu:
        parts.append(f"needs {shape.cpu_millis}m cpu, {max(room.free_cpu, 0)}m available")
    if shape.memory_mb > room.free_memory:
        parts.append(f"needs {shape.memory_mb}Mi memory, {max(room.free_memory, 0)}Mi available")
    return " and ".join(parts)
