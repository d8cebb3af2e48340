"""Waits for the supervisor and removes what it leaves: sandboxes, cgroups, the run's directory."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

CGROUPS = "cgroups"  # in the run's directory: a path on each line, written before one is made


def reap(supervisor: int, directory: str) -> None:
    """Wait for the supervisor's end, however it comes, and clean up behind it."""
    # A signal to the session must not take the reaper before its supervisor.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.chdir("/")
    os.waitpid(supervisor, 0)
    clean(Path(directory))


def clean(directory: Path) -> None:
    """Remove a run's directory and the sandboxes recorded in it; idempotent."""
    record = directory / CGROUPS
    if record.exists():
        from ..backends.cgroups import remove_paths

        remove_paths([Path(line) for line in record.read_text().splitlines()])
    if directory.exists():
        shutil.rmtree(directory, ignore_errors=False)
