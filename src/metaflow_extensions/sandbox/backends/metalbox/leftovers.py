"""Ends what runs in a sandbox, and sandboxes by their id: by ``destroy``, or when their launcher is gone.

macOS has neither process namespaces nor a parent for orphans, so that processes are told by what
the sandbox gave them: directories of its own in their environment.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from ...errors import SandboxLost
from ..local_state import LocalState

END = f"{__name__}:end"  # for the warden
_PATIENCE = 10.0  # seconds; what stays longer after a kill hangs in the kernel
_COLUMNS = ("-o", "pid=", "-o", "ppid=", "-o", "stat=", "-o", "command=")
_WITH_ENVIRONMENT = ("-A", "-E", "-ww") if sys.platform == "darwin" else ("axeww",)


def end(base: str, *sandbox_ids: str) -> None:
    """Kill what runs in these sandboxes below a base directory, and remove every trace; idempotent."""
    for sandbox_id in sandbox_ids:
        state = LocalState.find(Path(base), sandbox_id)
        if state:
            end_one(state)


def end_one(state: LocalState) -> None:
    """The same for one sandbox."""
    with contextlib.suppress(FileNotFoundError):
        # First, so that the launcher sees that it is destroyed, and starts nothing more in it.
        (state.directory / "processes").rename(state.directory / "ending")
    end_below(state.directory)
    _unlock(state.directory)
    state.destroy()


def end_below(directory: Path) -> None:
    """Kill every process that was given a directory below this one, with its children, until none is left."""
    deadline = time.monotonic() + _PATIENCE
    while pids := _given(f"={directory}/"):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise SandboxLost(f"processes {sorted(pids)} of the sandbox in {directory} can't be killed")


def _given(mark: str) -> set[int]:
    words = ["ps", *_WITH_ENVIRONMENT, *_COLUMNS]
    listing = subprocess.run(words, capture_output=True, check=True, env={"PATH": "/bin:/usr/bin"}).stdout
    wanted, parents = set(), {}
    for line in listing.decode(errors="replace").splitlines():
        pid, parent, state, *rest = line.split(None, 3)
        # The dead are no more than their parent's to bury.
        if rest and state[0] != "Z":
            parents[int(pid)] = int(parent)
            if mark in rest[0]:
                wanted.add(int(pid))
    while more := {pid for pid, parent in parents.items() if parent in wanted} - wanted:
        wanted |= more
    return wanted - {os.getpid()}


def _unlock(directory: Path) -> None:
    for place, names, _ in os.walk(directory):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # another destroys it too
                if not Path(place, name).is_symlink():
                    Path(place, name).chmod(0o700)
