"""The four strategies: how good a node is for a pod that fits on it.

A score is a whole number, lower is better, in millionths of the node: whole numbers compare the same everywhere, and nodes that are
alike tie exactly, so that the tie is broken by name and not by rounding.
"""

from collections.abc import Callable

from kago.core.model.deployment import Strategy
from kago.core.scheduler.filters import Room, Shape

Score = Callable[[Room, Shape], int]

_WHOLE = 1_000_000


def first_fit(room: Room, shape: Shape) -> int:
    """Every node is as good as the other, so the first by name wins."""
    return 0


def best_fit(room: Room, shape: Shape) -> int:
    """The node that will be the fullest, CPU and memory counted alike."""
    return -least_allocated(room, shape)


def least_allocated(room: Room, shape: Shape) -> int:
    """The node that will have the largest part of itself left, CPU and memory counted alike."""
    cpu = (room.cpu - room.free_cpu + shape.cpu_millis) * _WHOLE // room.cpu
    return cpu + (room.memory - room.free_memory + shape.memory_mb) * _WHOLE // room.memory


def balanced(room: Room, shape: Shape) -> int:
    """The node whose CPU and memory will be used most evenly: the smallest distance between the two."""
    cpu = (room.cpu - room.free_cpu + shape.cpu_millis) * _WHOLE // room.cpu
    return abs(cpu - (room.memory - room.free_memory + shape.memory_mb) * _WHOLE // room.memory)


SCORES: dict[Strategy, Score] = {
    Strategy.FIRST_FIT: first_fit,
    Strategy.BEST_FIT: best_fit,
    Strategy.LEAST_ALLOCATED: least_allocated,
    Strategy.BALANCED: balanced,
}
SPREADING = frozenset({Strategy.LEAST_ALLOCATED, Strategy.BALANCED})
"""Of nodes that score alike these prefer the one with fewer pods of the same deployment. Asked for membership only."""
