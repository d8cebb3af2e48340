"""Waits for the supervisor and removes what it leaves: its sandboxes, the run's directory."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

BACKENDS = "backends"  # a file in the run's directory: the names of the backends in use, one a line
LABEL = "supervisor"  # the label of a run's sandboxes; its value is the run directory's name


def reap(supervisor: int, directory: str) -> None:
    """Wait for the supervisor's end, however it comes, and clean up behind it."""
    # A signal to the session must not take the reaper before its supervisor.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.chdir("/")
    os.waitpid(supervisor, 0)
    clean(Path(directory))


def clean(directory: Path) -> None:
    """Destroy the sandboxes of a run and remove its directory; idempotent."""
    record = directory / BACKENDS
    if record.exists():
        # Imported only now: while it waits, the reaper is to weigh nothing.
        from ..backends import registry

        for name in record.read_text().splitlines():
            backend = registry.load(name)
            for sandbox in backend.list({LABEL: directory.name}):
                backend.destroy(sandbox.id)
    if directory.exists():
        shutil.rmtree(directory)
