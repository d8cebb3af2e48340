"""Waits for the supervisor and removes what it leaves: its sandboxes, the run's directory."""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys
import time
from pathlib import Path

# What type checkers read as typing's own; while it waits, the reaper is to weigh nothing.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..backends.interface import Backend

LIFELINE = 0  # the descriptor whose end means that the run is gone
CLOSING = b"c"  # what the supervisor says once it knows
KNOWS_WITHIN = 3.0  # seconds for that; a supervisor that is silent hangs
CLOSES_WITHIN = 15.0  # seconds from there to its end
BACKENDS = "backends"  # a file in the run's directory: the names of the backends in use, one a line
LABEL = "supervisor"  # the label of a run's sandboxes; its value is the run directory's name


def reap(supervisor: int, word: int, directory: str) -> None:
    """Wait for the supervisor's end, however it comes, and clean up behind it.

    ``word`` is the descriptor on which it says that it is closing. One that hangs when the run is
    gone is killed.
    """
    # A signal to the session must not take the reaper before its supervisor.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.chdir("/")
    if not ends(word):
        os.kill(supervisor, signal.SIGKILL)
    # Whoever still writes to a dead supervisor has to notice.
    os.close(LIFELINE)
    os.waitpid(supervisor, 0)
    clean(Path(directory))


def ends(word: int) -> bool:
    """Whether the supervisor ends in time once the run is gone."""
    poll = select.poll()
    poll.register(word, select.POLLIN)
    poll.register(LIFELINE, 0)
    deadline: float | None = None
    while True:
        left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
        ready = [descriptor for descriptor, _ in poll.poll(left)]
        if word in ready:
            if os.read(word, 1) != CLOSING:
                return True
            deadline = time.monotonic() + CLOSES_WITHIN
        elif LIFELINE in ready:
            deadline = time.monotonic() + KNOWS_WITHIN
        else:
            return False
        if LIFELINE in ready:
            poll.unregister(LIFELINE)


def clean(directory: Path) -> None:
    """Destroy the sandboxes of a run and remove its directory; idempotent.

    A backend that fails is named on stderr: what became of the run is known, and is not to change with that.
    """
    record = directory / BACKENDS
    if record.exists():
        for name in record.read_text().splitlines():
            clean_backend(name, directory)
    if directory.exists():
        shutil.rmtree(directory)


def clean_backend(name: str, directory: Path) -> None:
    """Destroy the sandboxes of a run on one backend."""
    from ..backends import registry
    from ..errors import SandboxError

    try:
        destroy_all(registry.load_again(name), directory)
    except SandboxError as error:
        sys.stderr.write(
            f"[sandbox] What is left on {name} of this run can't be ended: {error}. If there is anything, "
            "it ends with its lifetime, or by 'sandbox cleanup'\n"
        )


def destroy_all(backend: Backend, directory: Path) -> None:
    """Destroy what is left of the backend's sandboxes of the run in ``directory``."""
    for sandbox in backend.list({LABEL: directory.name}):
        backend.destroy(sandbox.id)
