"""A figure, what it was to reach and what was seen of it: values and the arithmetic on them, for the table, the page and the file alike."""

import math
import statistics
from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

FORMAT: Literal[1] = 1


class Goal(Struct, frozen=True, kw_only=True):
    """A bound on Kago's median: `times` what the peer reached, and `plus`, in the figure's unit."""

    at_least: bool
    times: float = 0.0
    plus: float = 0.0

    def bound(self, peer: float | None) -> float | None:
        """None where it hangs on a peer that was not measured."""
        if not self.times:
            return self.plus
        return None if peer is None else self.times * peer + self.plus

    def words(self, figure: "Figure") -> str:
        parts = []
        if self.times:
            parts.append(figure.peer if self.times == 1 else f"{self.times:g} × {figure.peer}")
        if self.plus or not parts:
            parts.append(f"{self.plus:,g} {figure.unit}".rstrip())
        return f"{'≥' if self.at_least else '≤'} {' + '.join(parts)}"


class Figure(Struct, frozen=True, kw_only=True):
    name: str
    unit: str
    peer: str = ""
    """Whose figure stands beside it; empty: nobody's."""
    goal: Goal | None = None
    """None: it is there to be seen."""
    worst: bool = False
    """The goal is for the worst of all, not for the median."""


class Sample(Struct, frozen=True, kw_only=True):
    value: float
    strangers: float = 0.0
    """Cores that processes which are none of ours kept busy meanwhile."""


class Measured(Struct, frozen=True, kw_only=True):
    figure: Figure
    kago: tuple[Sample, ...] = ()
    peer: tuple[Sample, ...] = ()
    missing: tuple[str, ...] = ()
    """Why something was not measured."""
    remarks: tuple[str, ...] = ()
    reduced: str = ""
    """What it was measured on, where that is less than its goal is for."""

    @property
    def kago_spread(self) -> "Spread | None":
        return spread([sample.value for sample in self.kago])

    @property
    def peer_spread(self) -> "Spread | None":
        return spread([sample.value for sample in self.peer])

    @property
    def ratio(self) -> "Spread | None":
        """Of Kago to its peer, repeat by repeat: neighbours in time saw the same machine. Of medians where one was measured more often."""
        if len(self.kago) != len(self.peer):
            ours, theirs = self.kago_spread, self.peer_spread
            return None if ours is None or theirs is None or not theirs.median else spread([ours.median / theirs.median])
        return spread([ours.value / theirs.value for ours, theirs in zip(self.kago, self.peer, strict=True) if theirs.value])

    @property
    def reached(self) -> bool | None:
        """None where there is no goal, or nothing to tell by."""
        goal, ours, theirs = self.figure.goal, self.kago_spread, self.peer_spread
        if goal is None or ours is None or self.reduced:
            return None
        value = (ours.least if goal.at_least else ours.most) if self.figure.worst else ours.median
        ratio = self.ratio
        if goal.times and not goal.plus and ratio is not None and not self.figure.worst:
            return ratio.median >= goal.times if goal.at_least else ratio.median <= goal.times
        bound = goal.bound(theirs.median if theirs is not None else None)
        if bound is None:
            return None
        return value >= bound if goal.at_least else value <= bound


class Curve(Struct, frozen=True, kw_only=True):
    """How a cost grows: y against x, both more than nothing."""

    name: str
    x: str
    y: str
    points: tuple[tuple[float, float], ...]

    @property
    def exponent(self) -> float | None:
        """Of y ~ x^e, by least squares over the logarithms; 0 does not grow, 1 grows as x does."""
        logs = [(math.log(x), math.log(y)) for x, y in self.points if x > 0 and y > 0]
        if len({x for x, _ in logs}) < 2:
            return None
        return statistics.linear_regression([x for x, _ in logs], [y for _, y in logs]).slope


class Machine(Struct, frozen=True, kw_only=True):
    cpu: str
    cores: int
    memory_mb: int
    kernel: str
    python: str
    file_system: str
    versions: dict[str, str] = {}
    """Of the peers and libraries that were there."""


class Run(Struct, frozen=True, kw_only=True):
    """One `make bench`, as its file keeps it."""

    format: Literal[1] = FORMAT
    commit: str
    changed: bool
    """Files of the checkout differed from the commit."""
    began_at: str
    took_s: float
    quick: bool
    repeats: int
    machine: Machine
    measured: tuple[Measured, ...]
    curves: tuple[Curve, ...] = ()


class Spread(Struct, frozen=True):
    least: float
    median: float
    most: float


def spread(values: Sequence[float]) -> Spread | None:
    return Spread(min(values), statistics.median(values), max(values)) if values else None


def percentile(values: Sequence[float], share: float) -> float:
    """Of at least one value."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
