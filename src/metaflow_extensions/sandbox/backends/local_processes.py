"""Processes of this machine, ended without ever ending another that got the same pid."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from pathlib import Path

_PATIENCE = 10.0  # seconds; what stays longer after a kill hangs in the kernel


def start_time(pid: int) -> str:
    """Field 22 of /proc/PID/stat, in clock ticks since boot; empty when there is no such process."""
    try:
        # The command name, in brackets, may itself hold brackets and spaces.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def children(pid: int) -> list[int]:
    """The processes that it started and that still run; none when it is gone."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def end(pid: int, started: str) -> None:
    """Kill the process of that pid and start time, and wait for it."""
    with contextlib.suppress(ProcessLookupError):
        process = os.pidfd_open(pid)
        try:
            # Compared after the descriptor is held: from here on it is that process or none.
            if start_time(pid) == started:
                signal.pidfd_send_signal(process, signal.SIGKILL)
                wait_until_gone(process)
        finally:
            os.close(process)


def end_named(name: str) -> None:
    """Kill every process whose own first argument is that name, until there is none left.

    Others' processes may carry any name: those that this user may not kill are passed over.
    """
    tried: set[tuple[int, str]] = set()
    while found := {(pid, start_time(pid)) for pid in _named(name)} - tried:
        tried |= found
        for pid, started in found:
            with contextlib.suppress(PermissionError):
                end(pid, started)


def wait_until_gone(process: int, seconds: float = _PATIENCE) -> bool:
    """Whether the process behind a pidfd, and for a namespace's first process all in it, ended in time."""
    waiting = select.poll()
    waiting.register(process, select.POLLIN)
    return bool(waiting.poll(seconds * 1000))


def _named(name: str) -> list[int]:
    wanted = os.fsencode(name)
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        # Processes end while they are looked at, and some can't be.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            if (entry / "cmdline").read_bytes().split(b"\0", 1)[0] == wanted:
                found.append(int(entry.name))
    return found
