"""What packages of a step's own cost once they are installed."""

from __future__ import annotations

from pathlib import Path

from .measure import Run, in_turns, run_flow, series
from .report import Row

TASKS = 3  # of linear.py
LIMIT = 0.3  # seconds a task
PACKAGES = '{"numpy": "2.1.3", "pandas": "2.2.3"}'


def second_run(directory: Path, repeat: int) -> list[Row]:
    """Three sandboxed steps with packages that an earlier run has installed, above three without."""
    cache = {"METAFLOW_SANDBOX_CACHE": str(directory / "cache")}

    def run(**extra: str) -> Run:
        return run_flow(
            "linear.py", "run", "--with", "sandbox", directory=directory, environment={**cache, **extra}
        )

    # The first of each, which installs, does not count.
    without, installed = in_turns(run, lambda: run(METAFLOW_SANDBOX_PACKAGES=PACKAGES), repeat)
    plain, own = (series(runs, lambda run: run.seconds / TASKS) for runs in (without, installed))
    return [
        Row(
            "a task with packages installed before, above one without",
            f"{plain.low * 1000:.0f} ms ±{plain.spread:.0%}",
            f"{own.low * 1000:.0f} ms ±{own.spread:.0%}",
            own.low - plain.low,
            "s",
            LIMIT,
            repeat,
            own.median - plain.median,
        )
    ]
