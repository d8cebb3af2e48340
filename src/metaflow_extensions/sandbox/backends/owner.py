"""Whose a sandbox is: labels from which any process can tell whether the process that made it still lives."""

from __future__ import annotations

import contextlib
import enum
import functools
import hashlib
import os
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path

from .local_processes import start_time

HOST = "host"  # the label with the machine's name and a number of its own
PROCESS = "process"  # the label with the maker's pid and start time
_PID_NAMESPACE = "/proc/self/ns/pid"


class State(enum.Enum):
    """What can be said of a sandbox's maker."""

    RUNNING = "running"
    ORPHAN = "orphan"
    ELSEWHERE = "elsewhere"
    UNKNOWN = "unknown"


def labels() -> dict[str, str]:
    """The labels of a sandbox that this process makes."""
    return {HOST: host(), PROCESS: mark(os.getpid())}


def state(found: Mapping[str, str]) -> State:
    """What a sandbox's labels say; only of this machine's processes can it be known whether they live."""
    if not found.get(HOST) or not found.get(PROCESS):
        return State.UNKNOWN
    if found[HOST] != host():
        return State.ELSEWHERE
    return State.RUNNING if lives(found[PROCESS]) else State.ORPHAN


def mark(pid: int) -> str:
    """A process, told apart from later ones of its pid."""
    return f"{pid}-{start_time(pid)}"


def lives(process: str) -> bool:
    """Whether a process still runs, given what ``mark`` said of it."""
    pid = process.partition("-")[0]
    if not pid.isdigit():
        return False
    if os.path.exists("/proc/self"):  # noqa: PTH110 - macOS has none
        return process == mark(int(pid)) and not process.endswith("-") and not _has_ended(pid)
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(pid), 0)
        return True
    return False


def _has_ended(pid: str) -> bool:
    """Whether it has ended, and nobody has asked how: in a container its first process may never do that."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    return True


@functools.cache
def host() -> str:
    """This machine: its name, and a number that other machines and containers of that name don't have.

    Pids mean nothing in another namespace of them, so that a container is a machine of its own.
    """
    name = socket.gethostname()[:40]
    parts = [name, _number_of_home()]
    with contextlib.suppress(OSError):
        parts.append(os.readlink(_PID_NAMESPACE))  # noqa: PTH115 - it is no path
    return f"{name}-{hashlib.sha256(' '.join(parts).encode()).hexdigest()[:8]}"


def _number_of_home() -> str:
    """A random number kept in the user's home; in the temporary directory where the home can't be written."""
    home = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    places = [Path(home, "metaflow-sandbox"), Path(tempfile.gettempdir(), f"metaflow-sandbox-{os.geteuid()}")]
    for place in places:
        with contextlib.suppress(OSError):
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = place / "host"
            if not path.exists():
                draft = place / f"host-{os.urandom(4).hex()}"
                draft.write_text(os.urandom(8).hex())
                # Linked, not renamed: the first of several that come at once is the one that stays.
                with contextlib.suppress(FileExistsError):
                    path.hardlink_to(draft)
                draft.unlink()
            return path.read_text()
    return ""
