"""Whole flows, from the shell's point of view."""

from __future__ import annotations

from pathlib import Path

from .measure import Run, in_turns, run_flow
from .report import Row, run_ratio

ALL = ("--with", "sandbox")


def linear(directory: Path, repeat: int) -> list[Row]:
    """Three steps; also with every step sandboxed."""

    def run(flow: str, *arguments: str) -> Run:
        return run_flow(flow, "run", *arguments, directory=directory)

    rows = []
    for what, sandboxed in (
        ("3 steps, the middle one sandboxed", ("linear_middle.py",)),
        ("3 steps, all sandboxed", ("linear.py", *ALL)),
    ):
        results = in_turns(lambda: run("linear.py"), lambda call=sandboxed: run(*call), repeat)  # type: ignore[misc]
        rows.append(run_ratio(what, *results, limit=1.15))
    return rows


def foreach(directory: Path, repeat: int) -> list[Row]:
    """A foreach of 50, every step sandboxed."""
    results = in_turns(
        lambda: run_flow("fan.py", "run", directory=directory),
        lambda: run_flow("fan.py", "run", *ALL, directory=directory),
        repeat,
    )
    return [run_ratio("foreach of 50, all sandboxed", *results, limit=1.2)]
