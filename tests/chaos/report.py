"""From the injected faults to figures: a table on the terminal, Markdown for tests/README.md."""

import statistics
from collections.abc import Iterable, Sequence

from tests.chaos.campaign import Injected

_TITLES = ("fault", "times", "calls", "gap median", "p99", "max", "healed max", "lost", "doubled", "restarted", "orphaned", "other")


def rows(injected: Iterable[Injected]) -> list[tuple[str, ...]]:
    """A row a fault, in the order they come in, and one of them all."""
    by_fault: dict[str, list[Injected]] = {}
    every: list[Injected] = []
    for one in injected:
        by_fault.setdefault(one.fault, []).append(one)
        every.append(one)
    return [_row(name, found) for name, found in by_fault.items()] + ([_row("all", every)] if every else [])


def _row(name: str, found: Sequence[Injected]) -> tuple[str, ...]:
    gaps = sorted(one.gap_s for one in found)
    times = (statistics.median(gaps), gaps[min(len(gaps) - 1, int(0.99 * len(gaps)))], gaps[-1], max(one.healed_s for one in found))
    counts = [sum(len(getattr(one.findings, kind)) for one in found) for kind in ("lost", "doubled", "restarted", "orphaned", "other")]
    return (name, str(len(found)), str(sum(one.calls for one in found)), *(f"{s:.2f} s" for s in times), *map(str, counts))


def as_table(lines: Sequence[tuple[str, ...]]) -> str:
    everything = [_TITLES, *lines]
    widths = [max(len(line[n]) for line in everything) for n in range(len(_TITLES))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in everything)


def as_markdown(lines: Sequence[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (_TITLES, ("---",) * len(_TITLES), *lines))
