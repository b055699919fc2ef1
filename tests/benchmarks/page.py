"""A run as one HTML page that needs nothing else: the table, every repeat as a dot beside its peer's and the goal, and the curves."""

import math
from collections.abc import Sequence
from html import escape

from tests.benchmarks.figures import Curve, Measured, Run
from tests.benchmarks.tables import TITLES, number, remarks, rows

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #1c2733; background: #fff }
table { border-collapse: collapse; font-variant-numeric: tabular-nums } th, td { text-align: left; padding: .2rem .8rem .2rem 0 }
tr { border-bottom: 1px solid #e3e8ee } .yes { color: #18794e } .NO { color: #c0292b; font-weight: 600 }
.unknown, .smaller { color: #8a94a0 }
svg text { font: 12px system-ui, sans-serif; fill: #55606c } pre { white-space: pre-wrap; color: #55606c }
.plots { display: flex; flex-wrap: wrap; gap: 1.5rem } figure { margin: 0 } figcaption { font-weight: 600 }
@media (prefers-color-scheme: dark) { body { color: #dfe6ee; background: #14191f } tr { border-color: #2a333d } svg text { fill: #9aa6b2 } }
"""
_KAGO, _PEER, _GOAL, _LINE = "#2563eb", "#d97706", "#18794e", "#b8c1cb"
_WIDE, _LEFT = 480, 90


def render(run: Run) -> str:
    changed = ", with changes" if run.changed else ""
    machine = run.machine
    about = (
        f"Commit {run.commit}{changed}, {run.began_at}, {run.repeats} repeats{', quick' if run.quick else ''}. "
        f"{machine.cores} × {machine.cpu}, {machine.memory_mb:,} MB, {machine.file_system}, Linux {machine.kernel}, "
        f"Python {machine.python}. "
        + ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    )
    head = "".join(f"<th>{escape(title)}</th>" for title in TITLES)
    body = "".join(f"<tr>{''.join(_cell(cell) for cell in row)}</tr>" for row in rows(run.measured))
    plots = "".join(_dots(one) for one in run.measured if one.kago)
    curves = "".join(_curve(curve) for curve in run.curves if len(curve.points) > 1)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Kago, measured</title><style>{_STYLE}</style>'
        f"<h1>Kago, measured</h1><p>{escape(about)}</p><table><tr>{head}</tr>{body}</table><h2>Every repeat</h2>"
        f'<p>Blue: Kago. Orange: the peer. Green: the goal.</p><div class="plots">{plots}</div><h2>How costs grow</h2>'
        f'<div class="plots">{curves}</div><h2>Remarks</h2><pre>{escape(remarks(run))}</pre></html>\n'
    )


def _cell(text: str) -> str:
    style = f' class="{text}"' if text in ("yes", "NO", "unknown", "smaller") else ""
    return f"<td{style}>{escape(text)}</td>"


def _dots(one: Measured) -> str:
    figure, goal, theirs = one.figure, one.figure.goal, one.peer_spread
    bound = goal.bound(theirs.median if theirs is not None else None) if goal is not None else None
    most = max([*(sample.value for sample in (*one.kago, *one.peer)), bound or 0.0]) * 1.05 or 1.0

    def x(value: float) -> float:
        return _LEFT + value / most * (_WIDE - _LEFT - 20)

    parts = []
    lines = [("Kago", _KAGO, one.kago)] + ([(figure.peer, _PEER, one.peer)] if one.peer else [])
    for n, (name, colour, samples) in enumerate(lines):
        y = 20 + 24 * n
        parts.append(f'<text x="0" y="{y + 4}">{escape(name)}</text>')
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDE - 20}" y1="{y}" y2="{y}" stroke="{_LINE}"/>')
        parts += [f'<circle cx="{x(sample.value):.1f}" cy="{y}" r="4" fill="{colour}" fill-opacity=".65"/>' for sample in samples]
    bottom = 20 + 24 * len(lines)
    if bound is not None:
        parts.append(f'<line x1="{x(bound):.1f}" x2="{x(bound):.1f}" y1="6" y2="{bottom - 8}" stroke="{_GOAL}" stroke-width="2"/>')
    parts.append(f'<text x="{_LEFT}" y="{bottom + 6}">0</text>')
    parts.append(f'<text x="{_WIDE - 20}" y="{bottom + 6}" text-anchor="end">{escape(number(most / 1.05, figure.unit))}</text>')
    return _plot(figure.name, bottom + 12, parts)


def _curve(curve: Curve) -> str:
    """On logarithmic axes, where a power is a straight line."""
    points = [(math.log10(x), math.log10(y)) for x, y in curve.points if x > 0 and y > 0]
    if len(points) < 2:
        return ""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    high, wide = 200, max(max(xs) - min(xs), 0.1)
    tall = max(max(ys) - min(ys), wide * 0.5)
    places = [(_LEFT + (x - min(xs)) / wide * (_WIDE - _LEFT - 60), high - 30 - (y - min(ys)) / tall * (high - 60)) for x, y in points]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    parts = [f'<polyline points="{line}" fill="none" stroke="{_KAGO}" stroke-width="2"/>']
    for (x, y), (px, py) in zip([(x, y) for x, y in curve.points if x > 0 and y > 0], places, strict=True):
        parts.append(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="4" fill="{_KAGO}"/>')
        parts.append(f'<text x="{px + 6:.1f}" y="{py - 7:.1f}">{escape(f"{y:,.3g}")}</text>')
        parts.append(f'<text x="{px:.1f}" y="{high - 8}" text-anchor="middle">{escape(f"{x:,g}")}</text>')
    exponent = "" if curve.exponent is None else f" ~ {curve.x}^{curve.exponent:.2f}"
    return _plot(f"{curve.name}: {curve.y}{exponent}", high, parts)


def _plot(title: str, height: int, parts: Sequence[str]) -> str:
    inside = "".join(parts)
    return f'<figure><figcaption>{escape(title)}</figcaption><svg width="{_WIDE}" height="{height}" role="img">{inside}</svg></figure>'
