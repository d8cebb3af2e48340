"""Flows recorded by our metadata service, once it runs, against the same with Metaflow's local provider."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from .flow_runs import ALL
from .measure import PR_SET_CHILD_SUBREAPER, Run, Series, flow_environment, in_turns, run_flow
from .report import Row, run_ratio

COMMAND = [sys.executable, "-m", "metaflow_extensions.sandbox.cli", "service"]
AT_ONCE = ("--max-workers", "50")
FAN_TASKS = 53  # of fan.py: fifty at once, and three others


def under_a_service(directory: Path, repeat: int) -> list[Row]:
    """Three steps in a row, and fifty at once; plain and sandboxed. The CPU time has the service's in it."""
    cases = (
        ("linear.py", "3 steps under the service", (), 1.15),
        ("linear.py", "3 steps under the service, all sandboxed", ALL, 1.15),
        ("fan.py", "50 parallel tasks under the service", AT_ONCE, 1.2),
        ("fan.py", "50 parallel tasks under the service, all sandboxed", (*AT_ONCE, *ALL), 1.2),
    )
    with serving(directory) as (pid, env):
        rows = [compared(directory, pid, env, repeat, *case) for case in cases]
        spent = [
            (served(pid, lambda: run_flow("fan.py", "run", *AT_ONCE, directory=directory, environment=env)))[
                1
            ]
            for _ in range(repeat)
        ]
    own = Series(tuple(seconds * 1000 / FAN_TASKS for seconds in spent))
    return [*rows, Row("the service's CPU time a task", "", "", own.low, "ms", None, repeat, own.median)]


def compared(
    directory: Path,
    pid: int,
    env: Mapping[str, str],
    repeat: int,
    flow: str,
    what: str,
    options: tuple[str, ...],
    limit: float,
) -> Row:
    def under_the_service() -> Run:
        run, own = served(pid, lambda: run_flow(flow, "run", *options, directory=directory, environment=env))
        return replace(run, cpu=run.cpu + own)

    local, service = in_turns(
        lambda: run_flow(flow, "run", *options, directory=directory), under_the_service, repeat
    )
    return run_ratio(what, local, service, limit)


def served(pid: int, run: Callable[[], Run]) -> tuple[Run, float]:
    """A run, and the CPU seconds of the service meanwhile."""
    before = cpu_of(pid)
    return run(), cpu_of(pid) - before


def cpu_of(pid: int) -> float:
    """CPU seconds of a process, user and system: fields 14 and 15 of proc_pid_stat(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def serving(directory: Path) -> Iterator[tuple[int, Mapping[str, str]]]:
    """The process of a service for ``directory``, and the environment that `service run` would give."""
    (directory / ".metaflow").mkdir()
    home = flow_environment({"HOME": str(directory)})

    def command(*words: str) -> str:
        done = subprocess.run(
            [*COMMAND, *words], cwd=directory, env=home, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    # Every process that was ever a child is waited for after a run, which a service would not end.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
    started = re.search(r"pid=(\d+)", command("start", "--idle-timeout", "3600"))
    assert started
    try:
        yield (
            int(started.group(1)),
            {
                "METAFLOW_SERVICE_URL": command("url"),
                "METAFLOW_DEFAULT_METADATA": "service",
                "METAFLOW_SANDBOX_HEARTBEAT": os.environ.get("METAFLOW_SANDBOX_HEARTBEAT", "light"),
            },
        )
    finally:
        command("stop")
