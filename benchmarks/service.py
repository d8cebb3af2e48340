"""Flows recorded by our metadata service, once it runs, against the same with Metaflow's local provider."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from .flow_runs import ALL
from .measure import PR_SET_CHILD_SUBREAPER, flow_environment, in_turns, run_flow
from .report import Row, run_ratio

COMMAND = [sys.executable, "-m", "metaflow_extensions.sandbox.cli", "service"]
AT_ONCE = ("--max-workers", "50")


def under_a_service(directory: Path, repeat: int) -> list[Row]:
    """Three steps in a row, and fifty at once; plain and sandboxed."""
    cases = (
        ("linear.py", "3 steps under the service", (), 1.15),
        ("linear.py", "3 steps under the service, all sandboxed", ALL, 1.15),
        ("fan.py", "50 parallel tasks under the service", AT_ONCE, 1.2),
        ("fan.py", "50 parallel tasks under the service, all sandboxed", (*AT_ONCE, *ALL), 1.2),
    )
    with serving(directory) as env:
        return [compared(directory, env, repeat, *case) for case in cases]


def compared(
    directory: Path,
    env: Mapping[str, str],
    repeat: int,
    flow: str,
    what: str,
    options: tuple[str, ...],
    limit: float,
) -> Row:
    local, service = in_turns(
        lambda: run_flow(flow, "run", *options, directory=directory),
        lambda: run_flow(flow, "run", *options, directory=directory, environment=env),
        repeat,
    )
    return run_ratio(what, local, service, limit)


@contextlib.contextmanager
def serving(directory: Path) -> Iterator[Mapping[str, str]]:
    """A service for ``directory``, and the environment that `service run` would give."""
    (directory / ".metaflow").mkdir()
    home = flow_environment({"HOME": str(directory)})

    def command(*words: str) -> str:
        done = subprocess.run(
            [*COMMAND, *words], cwd=directory, env=home, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    # Every process that was ever a child is waited for after a run, which a service would not end.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
    command("start", "--idle-timeout", "3600")
    try:
        yield {
            "METAFLOW_SERVICE_URL": command("url"),
            "METAFLOW_DEFAULT_METADATA": "service",
            "METAFLOW_SANDBOX_HEARTBEAT": os.environ.get("METAFLOW_SANDBOX_HEARTBEAT", "light"),
        }
    finally:
        command("stop")
