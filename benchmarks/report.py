"""One table: what was measured, against what, and whether it is within its limit."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from .measure import Run, Series, series

HEADINGS = ("what", "plain", "sandboxed", "measured", "medians", "CPU", "limit", "verdict")


@dataclass(frozen=True)
class Row:
    """One line: texts for people, ``measured`` and ``limit`` (None: only told) for machines."""

    what: str
    plain: str
    sandboxed: str
    measured: float
    unit: str
    limit: float | None
    repetitions: int
    median: float | None = None
    cpu: float | None = None

    @property
    def passed(self) -> bool:
        return self.limit is None or self.measured <= self.limit

    @property
    def cells(self) -> tuple[str, ...]:
        verdict = "" if self.limit is None else "ok" if self.passed else "over"
        return (
            self.what,
            self.plain,
            self.sandboxed,
            self._told(self.measured),
            self._told(self.median),
            f"{self.cpu:.2f}x" if self.cpu is not None else "",
            self._told(self.limit),
            verdict,
        )

    def _told(self, value: float | None) -> str:
        if value is None:
            return ""
        if self.unit in ("x", "s"):
            return f"{value:.2f}{self.unit if self.unit == 'x' else ' s'}"
        return f"{value:.1f} {self.unit}"

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "passed": self.passed}


def ratio(
    what: str, plain: Series, sandboxed: Series, limit: float | None, *, cpu: float | None = None
) -> Row:
    """How many times as long the sandboxed one takes."""
    return Row(
        what,
        _seconds(plain),
        _seconds(sandboxed),
        sandboxed.low / plain.low,
        "x",
        limit,
        len(plain.values),
        sandboxed.median / plain.median,
        cpu,
    )


def run_ratio(what: str, plain: list[Run], sandboxed: list[Run], limit: float) -> Row:
    """The ratio of whole runs, in wall-clock time, with that of their CPU time beside it."""
    cpu = series(sandboxed, lambda run: run.cpu).low / series(plain, lambda run: run.cpu).low
    return ratio(
        what,
        series(plain, lambda run: run.seconds),
        series(sandboxed, lambda run: run.seconds),
        limit,
        cpu=cpu,
    )


def _seconds(measured: Series) -> str:
    low = f"{measured.low:.2f} s" if measured.low >= 1 else f"{measured.low * 1000:.0f} ms"
    return f"{low} ±{measured.spread:.0%}"


def as_table(rows: list[Row], *, markdown: bool) -> str:
    """The rows as aligned columns, or as a Markdown table."""
    lines = [HEADINGS, *(row.cells for row in rows)]
    if markdown:
        rule = tuple("---" for _ in HEADINGS)
        return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:]))
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
