"""A run as a table for the terminal and as Markdown, and beside an earlier run."""

from collections.abc import Iterable, Sequence

from tests.benchmarks.figures import Measured, Run, Spread

TITLES = ("figure", "Kago", "peer", "ratio", "goal", "reached", "strangers")


def rows(measured: Iterable[Measured]) -> list[tuple[str, ...]]:
    return [_row(one) for one in measured]


def as_table(titles: Sequence[str], lines: Sequence[tuple[str, ...]]) -> str:
    everything = [tuple(titles), *lines]
    widths = [max(len(line[n]) for line in everything) for n in range(len(titles))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in everything)


def as_markdown(titles: Sequence[str], lines: Sequence[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (tuple(titles), ("---",) * len(titles), *lines))


def remarks(run: Run) -> str:
    """What the table has no room for: what was not measured and why, the curves, and who else was at work."""
    lines = [f"not measured: {one.figure.name}: {why}" for one in run.measured for why in one.missing]
    lines += [f"{one.figure.name}: measured on {one.reduced} only" for one in run.measured if one.reduced]
    lines += [f"{one.figure.name}: {words}" for one in run.measured for words in one.remarks]
    for curve in run.curves:
        points = ", ".join(f"{x:,g}: {y:,.3g}" for x, y in curve.points)
        exponent = "" if curve.exponent is None else f"; grows as {curve.x}^{curve.exponent:.2f}"
        lines.append(f"{curve.name}: {curve.y} by {curve.x}: {points}{exponent}")
    return "\n".join(lines)


def against(now: Run, before: Run) -> str:
    """Medians then and now, and the ratios to the peers, which a busier machine disturbs less."""
    old = {one.figure.name: one for one in before.measured}
    lines = []
    for one in now.measured:
        then = old.get(one.figure.name)
        if then is None or then.kago_spread is None or one.kago_spread is None:
            continue
        unit, was, is_now = one.figure.unit, then.kago_spread.median, one.kago_spread.median
        change = f"× {is_now / was:.2f}" if was else ""
        lines.append((one.figure.name, number(was, unit), number(is_now, unit), change, _ratio(then.ratio), _ratio(one.ratio)))
    title = f"against {before.commit}{' (changed)' if before.changed else ''} of {before.began_at}"
    return f"{title}\n" + as_table(("figure", "then", "now", "change", "ratio then", "ratio now"), lines)


def number(value: float, unit: str) -> str:
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{text}{unit if unit.startswith('/') else ' ' + unit if unit else ''}"


def reached(one: Measured) -> str:
    match one.reached:
        case None:
            return "" if one.figure.goal is None else "smaller" if one.reduced else "unknown"
        case True:
            return "yes"
        case False:
            return "NO"


def _row(one: Measured) -> tuple[str, ...]:
    figure, goal = one.figure, one.figure.goal
    strangers = [sample.strangers for sample in (*one.kago, *one.peer)]
    peer = _spread(one.peer_spread, figure.unit)
    return (
        figure.name,
        _spread(one.kago_spread, figure.unit) or "not measured",
        f"{figure.peer}: {peer or 'not measured'}" if figure.peer else "",
        _ratio(one.ratio),
        "" if goal is None else goal.words(figure) + (", the worst" if figure.worst else ""),
        reached(one),
        f"{max(strangers):.1f}" if strangers else "",
    )


def _spread(found: Spread | None, unit: str) -> str:
    if found is None:
        return ""
    if found.least == found.most:
        return number(found.median, unit)
    return f"{number(found.median, unit)} ({number(found.least, '')}–{number(found.most, '')})"


def _ratio(found: Spread | None) -> str:
    if found is None:
        return ""
    return f"{found.median:.2f} ({found.least:.2f}–{found.most:.2f})" if found.least != found.most else f"{found.median:.2f}"
