"""Charts as SVG: an amount over time, phases in a row, sandboxes on one time axis."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from html import escape

from ...samples import Sample
from .stories import PHASES, Attempt

WIDTH, HEIGHT = 860, 150
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 10, 24
ROW, LABEL = 20, 190
Points = Sequence[tuple[float, float]]


def nice(most: float, parts: int = 4) -> float:
    """A round distance between marks, so that about ``parts`` of them reach ``most``."""
    rough = max(most, 1e-6) / parts
    power = 10.0 ** math.floor(math.log10(rough))
    return power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)


def number(value: float) -> str:
    """At most three digits that matter."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def seconds(value: float) -> str:
    """A duration for a reader."""
    if value < 1:
        return f"{value * 1000:.0f} ms"
    return f"{number(value)} s" if value < 120 else f"{int(value // 60)} min {int(value % 60)} s"


def cores(samples: Sequence[Sample]) -> Points:
    """(seconds since the first, cores in use since the one before)."""
    begin = samples[0].time if samples else 0.0
    return [
        (now.time - begin, max(0.0, now.cpu - before.cpu) / (now.time - before.time))
        for before, now in itertools.pairwise(samples)
        if now.time > before.time
    ]


def memory(samples: Sequence[Sample]) -> Points:
    """(seconds since the first, MiB)."""
    return [(sample.time - samples[0].time, sample.memory) for sample in samples]


def area(points: Points, unit: str, name: str) -> str:
    """A filled line over time."""
    across = max((x for x, _ in points), default=0) or 1.0
    every = nice(max((y for _, y in points), default=0) or 1.0, 3)
    most = every * math.ceil((max(y for _, y in points) or every) / every - 1e-9)
    wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    spots = [(LEFT + x / across * wide, TOP + high - y / most * high) for x, y in points]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
    base = TOP + high
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(name)}">']
    for mark in range(round(most / every) + 1):
        y = base - mark * every / most * high
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text class="end" x="{LEFT - 6}" y="{y + 4:.1f}">{number(mark * every)}</text>')
    parts += axis(across, LEFT, wide, base + 16)
    parts.append(
        f'<polygon class="area" points="{spots[0][0]:.1f},{base} {line} {spots[-1][0]:.1f},{base}"/>'
    )
    parts.append(f'<polyline class="line" points="{line}"/>')
    parts.append(f"<title>{escape(name)}: at most {number(max(y for _, y in points))} {unit}</title></svg>")
    return "".join(parts)


def axis(across: float, left: float, wide: float, y: float) -> list[str]:
    """Times below a chart."""
    every = nice(across, 6)
    marks = range(int(across / every + 1e-9) + 1)
    places = ((left + mark * every / across * wide, number(mark * every)) for mark in marks)
    return [f'<text class="mid" x="{x:.1f}" y="{y}">{time} s</text>' for x, time in places]


def bars(attempt: Attempt, begin: float, scale: float, left: float, y: float, high: float) -> list[str]:
    """One attempt's phases in a row; none is too thin to be seen."""
    parts = []
    at = attempt.begin
    for phase in PHASES:
        spent = attempt.phases.get(phase, 0.0)
        if spent > 0:
            x, wide = left + (at - begin) * scale, max(spent * scale, 0.6)
            title = f"{attempt.name}, {phase}: {seconds(spent)}"
            parts.append(
                f'<rect class="{phase}" x="{x:.1f}" y="{y}" width="{wide:.1f}" height="{high}">'
                f"<title>{escape(title)}</title></rect>"
            )
        at += spent
    return parts


def phases(attempt: Attempt) -> str:
    """One task's phases over the whole width."""
    across = max(attempt.end - attempt.begin, 1e-3)
    wide = WIDTH - 2 * RIGHT
    parts = [f'<svg viewBox="0 0 {WIDTH} 52" role="img" aria-label="Phases">']
    parts += bars(attempt, attempt.begin, wide / across, RIGHT, 4, 24)
    parts += axis(across, RIGHT, wide, 46)
    return "".join([*parts, "</svg>"])


def gantt(attempts: Sequence[Attempt]) -> str:
    """All sandboxes of a run, one row each, oldest first."""
    begin = min(attempt.begin for attempt in attempts)
    across = max(max(attempt.end for attempt in attempts) - begin, 1e-3)
    wide, high = WIDTH - LABEL - RIGHT - 12, ROW * len(attempts)
    parts = [f'<svg viewBox="0 0 {WIDTH} {high + 32}" role="img" aria-label="Sandboxes over time">']
    every = nice(across, 6)
    for mark in range(int(across / every + 1e-9) + 1):
        x = LABEL + mark * every / across * wide
        parts.append(f'<path class="grid" d="M{x:.1f} 4V{high + 6}"/>')
    for row, attempt in enumerate(attempts):
        y = 6 + row * ROW
        label = attempt.name + (f" · attempt {attempt.number}" if attempt.number else "")
        shown = label if len(label) <= 28 else f"{label[:13]}…{label[-14:]}"
        name = f"{escape(shown)}<title>{escape(label)}</title>"
        parts.append(f'<text class="end" x="{LABEL - 8}" y="{y + 12}">{name}</text>')
        parts += bars(attempt, begin, wide / across, LABEL, y, ROW - 5)
    parts += axis(across, LABEL, wide, high + 24)
    return "".join([*parts, "</svg>"])
