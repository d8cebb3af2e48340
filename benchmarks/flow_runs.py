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

    middle = in_turns(lambda: run("linear.py"), lambda: run("linear_middle.py"), repeat)
    every = in_turns(lambda: run("linear.py"), lambda: run("linear.py", *ALL), repeat)
    return [
        run_ratio("3 steps, the middle one sandboxed", *middle, limit=1.15),
        run_ratio("3 steps, all sandboxed", *every, limit=1.15),
    ]


def foreach(directory: Path, repeat: int) -> list[Row]:
    """A foreach of 50, every step sandboxed."""
    results = in_turns(
        lambda: run_flow("fan.py", "run", directory=directory),
        lambda: run_flow("fan.py", "run", *ALL, directory=directory),
        repeat,
    )
    return [run_ratio("foreach of 50, all sandboxed", *results, limit=1.2)]
