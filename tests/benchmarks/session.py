"""One run of benchmarks: who is measured in which order, and what was seen."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path

from msgspec import Struct

from tests.benchmarks.figures import Curve, Figure, Measured, Sample
from tests.benchmarks.machine import Watch

KAGO = "Kago"


class Probe(Struct, frozen=True, kw_only=True):
    """Something that can be measured again and again; each time it gives one value for each of its figures."""

    side: str
    """KAGO, or the peer."""
    figures: tuple[Figure, ...]
    take: Callable[[], Mapping[Figure, float]]


class Bench(Struct, frozen=True, kw_only=True):
    """Figures that share one setting."""

    name: str
    about: str
    figures: tuple[Figure, ...]
    run: Callable[["Session"], None]


class Session:
    def __init__(self, directory: Path, *, repeats: int, quick: bool, faults: int = 0) -> None:
        self.directory = directory
        """On a disk; gone at the end."""
        self.repeats = repeats
        self.quick = quick
        self.faults = faults or (20 if quick else 100)
        """So many of each kind, for the worst of them."""
        self.curves: list[Curve] = []
        self.versions: dict[str, str] = {}
        self._samples: dict[tuple[str, str], list[Sample]] = {}
        self._missing: dict[str, list[str]] = {}
        self._remarks: dict[str, list[str]] = {}
        self._reduced: dict[str, str] = {}

    @property
    def load_s(self) -> float:
        """How long one load goes on."""
        return 1.0 if self.quick else 4.0

    def place(self, name: str) -> Path:
        """A fresh directory for a process's data."""
        place = self.directory / f"{name}-{len(list(self.directory.iterdir()))}"
        place.mkdir()
        return place

    def say(self, words: str) -> None:
        print(f"  {words}", file=sys.stderr, flush=True)

    def note(self, figure: Figure, side: str, value: float, strangers: float = 0.0) -> None:
        self._samples.setdefault((figure.name, side), []).append(Sample(value=value, strangers=strangers))

    def miss(self, figures: Sequence[Figure], side: str, why: str) -> None:
        """Say why there is nothing of this side for these figures."""
        for figure in figures:
            said = self._missing.setdefault(figure.name, [])
            if (words := f"{side}: {why}") not in said:
                said.append(words)
        self.say(f"not measured, {side}: {why}")

    def remark(self, figure: Figure, words: str) -> None:
        said = self._remarks.setdefault(figure.name, [])
        if words not in said:
            said.append(words)

    def reduce(self, figures: Sequence[Figure], to: str) -> None:
        """These are measured on less than their goals are for, and so not held to them."""
        self._reduced.update({figure.name: to for figure in figures})

    def interleave(self, probes: Sequence[Probe], *, repeats: int | None = None) -> None:
        """Each in turn, and all of that again: neighbours in the list see the same machine. One that fails is not asked again."""
        left = list(probes)
        for _ in range(repeats or self.repeats):
            for probe in list(left):
                watch = Watch()
                try:
                    values = probe.take()
                except Exception as error:  # whatever it is, the others are still to be measured, and the table says it
                    left.remove(probe)
                    self.miss(probe.figures, probe.side, f"{type(error).__name__}: {error}")
                    continue
                strangers = watch.strangers()
                for figure, value in values.items():
                    self.note(figure, probe.side, value, strangers)
                self.say(f"{probe.side}: {', '.join(f'{figure.name} {value:,.4g} {figure.unit}' for figure, value in values.items())}")

    def run(self, benches: Sequence[Bench]) -> tuple[Measured, ...]:
        for bench in benches:
            print(f"{bench.name}: {bench.about}", file=sys.stderr, flush=True)
            began = time.monotonic()
            try:
                bench.run(self)
            except Exception as error:  # as above
                self.miss(bench.figures, KAGO, f"{type(error).__name__}: {error}")
            self.say(f"{time.monotonic() - began:.0f} s")
        return tuple(self._measured(figure) for bench in benches for figure in bench.figures)

    def _measured(self, figure: Figure) -> Measured:
        kago, peer = (tuple(self._samples.get((figure.name, side), ())) for side in (KAGO, figure.peer))
        missing = self._missing.get(figure.name, [])
        if not kago and not missing:
            missing = [f"{KAGO}: its benchmark did not come to it"]
        remarks, reduced = tuple(self._remarks.get(figure.name, ())), self._reduced.get(figure.name, "")
        return Measured(figure=figure, kago=kago, peer=peer, missing=tuple(missing), remarks=remarks, reduced=reduced)


def in_turn(ours: Sequence[Probe], theirs: Sequence[Probe]) -> list[Probe]:
    """One of ours, then its peer, and so on; ours alone where there is no peer."""
    return [probe for pair in zip_longest(ours, theirs) for probe in pair if probe is not None]
