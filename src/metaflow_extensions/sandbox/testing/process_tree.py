"""Ending everything that a command started, as far as a plain process allows.

A child that starts a session of its own and clears its environment escapes: one more reason why a
scripted backend is no wall.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from ..errors import SandboxLost

_PROC = Path("/proc")
_PATIENCE = 10.0  # seconds; a killed process that stays longer hangs in the kernel


def kill_tree(session: int | None, marker: str) -> None:
    """Kill the session's processes, and all whose environment holds the marker (``NAME=value``)."""
    deadline = time.monotonic() + _PATIENCE
    if not _PROC.is_dir() and session is not None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(session, signal.SIGKILL)
    while found := list(_members(session, marker)):
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise SandboxLost(f"processes {found} don't end although they were killed: look at them with ps")
        time.sleep(0.005)


def _members(session: int | None, marker: str) -> Iterator[int]:
    wanted = os.fsencode(marker)
    for entry in _PROC.glob("[0-9]*"):
        # Processes end while they are looked at, and other users' can't be.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            # The name in parentheses may hold anything; the state and the ids come after it.
            state, _parent, _group, its_session = (
                (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[:4]
            )
            if state in "ZX":
                continue
            if int(its_session) == session or wanted in (entry / "environ").read_bytes().split(b"\0"):
                yield int(entry.name)
