"""A failing run with as few faults as still make it fail, kept as a short transcript that is played again by a test."""

from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec import Struct, structs

from .faults import Fault
from .runs import simulate
from .simulation import DENSE, Options, Outcome

MAX_RUNS = 80


class Transcript(Struct, frozen=True, kw_only=True):
    """One run to play again."""

    seed: int
    profile: str
    seconds: float
    members: int = 3
    plant: str = ""
    density: str = DENSE
    kinds: tuple[str, ...]
    """What it violated when it was found; with a plant it must go on doing so, without one never again."""
    note: str = ""
    faults: tuple[Fault, ...]

    def options(self) -> Options:
        return Options(
            profile=self.profile, seconds=self.seconds, members=self.members, plant=self.plant, density=self.density, only=self.faults
        )


def shrink(seed: int, options: Options, outcome: Outcome, told: Callable[[str], None]) -> Transcript:
    """Fewer faults and less time, as long as one of the kinds of violation stays. `told` hears of the progress."""
    kinds, runs = set(outcome.kinds), 0

    def fails(kept: tuple[Fault, ...], seconds: float) -> bool:
        nonlocal runs
        runs += 1
        found = set(simulate(seed, structs.replace(options, only=kept, seconds=seconds)).kinds) & kinds
        told(f"{len(kept)} faults, {seconds:.0f} s: {', '.join(sorted(found)) or 'nothing'}")
        return bool(found)

    kept, seconds = outcome.struck, options.seconds
    if not fails(kept, seconds):
        raise RuntimeError("the run does not fail when its own faults are given to it")
    soon = min(seconds, max(violation.at for violation in outcome.violations[:1]) + 1.0)
    if soon < seconds and fails(tuple(f for f in kept if f.at <= soon), soon):
        kept, seconds = tuple(f for f in kept if f.at <= soon), soon
    size = max(1, len(kept) // 2)
    while kept and runs < MAX_RUNS:
        smaller = next((rest for rest in _without(kept, size) if runs < MAX_RUNS and fails(rest, seconds)), None)
        if smaller is not None:
            kept, size = smaller, min(size, max(1, len(smaller) // 2))
        elif size == 1:
            break
        else:
            size = max(1, size // 2)
    return Transcript(
        seed=seed, profile=options.profile, seconds=seconds, members=options.members, plant=options.plant, density=options.density,
        kinds=tuple(sorted(kinds)), faults=kept,
    )


def _without(faults: tuple[Fault, ...], size: int) -> list[tuple[Fault, ...]]:
    """The faults less each part of `size`, the latest first."""
    return [faults[:at] + faults[at + size :] for at in reversed(range(0, len(faults), size))]


def save(transcript: Transcript, path: Path) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(transcript), indent=1) + b"\n")


def load(path: Path) -> Transcript:
    return msgspec.json.decode(path.read_bytes(), type=Transcript)
