"""Artifacts on their way out of a task and into the next one, timed inside the flow."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from .flow_runs import ALL
from .measure import in_turns, run_flow, series
from .report import Row, ratio

RUN_ID = re.compile(r"\(run-id ([^)]+)\)")
SAVING = re.compile(r"BENCHMARK saving at (\S+)")
LOADED = re.compile(r"BENCHMARK loaded in (\S+)")
KINDS = {
    "incompressible": ("64 MiB artifact, incompressible", 2.0),
    "compressible": ("64 MiB artifact, compressible", 2.0),
    "small": ("1,000 small artifacts", 1.5),
}


@dataclass(frozen=True)
class Passage:
    """Seconds from the end of the user's code to the task's completion mark, and to read everything back."""

    out: float
    back: float


def passage(kind: str, arguments: tuple[str, ...], directory: Path) -> Passage:
    run = run_flow("artifacts.py", "run", "--kind", kind, *arguments, directory=directory)
    identity, saving, loaded = (_find(pattern, run.output) for pattern in (RUN_ID, SAVING, LOADED))
    store = directory / ".metaflow"
    (mark,) = (store / "Artifacts" / identity / "start").glob("*/0.DONE.lock")
    out = mark.stat().st_mtime - float(saving)
    # The disk must not fill, and a blob that is there already would not be stored again.
    shutil.rmtree(store)
    return Passage(out, float(loaded))


def artifacts(directory: Path, repeat: int) -> list[Row]:
    """Large and small artifacts."""
    rows = []
    for kind, (what, limit) in KINDS.items():
        plain, sandboxed = in_turns(
            lambda kind=kind: passage(kind, (), directory),  # type: ignore[misc]
            lambda kind=kind: passage(kind, ALL, directory),  # type: ignore[misc]
            repeat,
        )
        for direction, read in (("out", lambda each: each.out), ("in", lambda each: each.back)):
            rows.append(ratio(f"{what}, {direction}", series(plain, read), series(sandboxed, read), limit))
    return rows


def _find(pattern: re.Pattern[str], output: str) -> str:
    found = pattern.search(output)
    if not found:
        raise RuntimeError(f"the flow did not say {pattern.pattern!r}:\n{output}")
    return found.group(1)
