"""Artifacts on their way out of a task and into the next one, timed inside the flow."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

from .flow_runs import ALL
from .measure import in_turns, run_flow, series
from .report import Row, ratio

RUN_ID = re.compile(r"\(run-id ([^)]+)\)")
SAVING = re.compile(r"BENCHMARK saving at (\S+)")
LOADED = re.compile(r"BENCHMARK loaded in (\S+)")
LARGE = {"incompressible": "64 MiB artifact, incompressible", "compressible": "64 MiB artifact, compressible"}
HALF_AS_FAST = 2.0
SMALL = 1.5


@dataclass(frozen=True)
class Passage:
    """Seconds from the end of the user's code to the task's completion mark, and to read everything back."""

    out: float
    back: float

    @property
    def way(self) -> float:
        return self.out + self.back


OUT, BACK, WAY = attrgetter("out"), attrgetter("back"), attrgetter("way")


def passage(
    kind: str, arguments: tuple[str, ...], directory: Path, environment: Mapping[str, str] | None = None
) -> Passage:
    words = ("run", "--kind", kind, *arguments)
    run = run_flow("artifacts.py", *words, directory=directory, environment=environment)
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
    for kind, what in LARGE.items():
        plain, sandboxed = both_ways(kind, directory, repeat)
        for direction, read in (("out", OUT), ("in", BACK)):
            row = ratio(f"{what}, {direction}", series(plain, read), series(sandboxed, read), HALF_AS_FAST)
            rows.append(row)
    plain, sandboxed = both_ways("small", directory, repeat)
    for direction, read, limit in (("out and in", WAY, SMALL), ("out", OUT, None), ("in", BACK, None)):
        what = f"1,000 small artifacts, {direction}"
        rows.append(ratio(what, series(plain, read), series(sandboxed, read), limit))
    return rows


def both_ways(
    kind: str, directory: Path, repeat: int, environment: Mapping[str, str] | None = None
) -> tuple[list[Passage], list[Passage]]:
    return in_turns(
        lambda: passage(kind, (), directory), lambda: passage(kind, ALL, directory, environment), repeat
    )


def _find(pattern: re.Pattern[str], output: str) -> str:
    found = pattern.search(output)
    if not found:
        raise RuntimeError(f"the flow did not say {pattern.pattern!r}:\n{output}")
    return found.group(1)
