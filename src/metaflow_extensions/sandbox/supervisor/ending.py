"""What ends a task's command before its own end: nobody waits for it any more, or its time is over."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from ..backends.interface import Process
from .watcher import Watcher


class Ending:
    """Of one task, whichever command it runs at the moment."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self._process: Process | None = None
        self._cancelled = threading.Event()
        self._call_off: Callable[[], None] = lambda: None
        self.timed_out = False

    def running(self, process: Process) -> None:
        """This is the command now; it is killed at once where the task was cancelled before it started."""
        self._process = process
        if self.cancelled():
            process.kill()

    def cancelled(self) -> bool:
        """Whether nobody waits for the task any more."""
        return self._cancelled.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait so long; whether the task was cancelled meanwhile."""
        return self._cancelled.wait(seconds)

    def cancel(self) -> None:
        """Nobody waits any more: kill the command."""
        if not self.cancelled():
            self._cancelled.set()
            self._kill()

    def expire_after(self, seconds: float) -> None:
        """Kill the command then, unless that is called off."""
        self._call_off = self._watcher.call_at(time.monotonic() + seconds, self._expire)

    def call_off(self) -> None:
        """The command may run as long as it will, or is over."""
        self._call_off()

    def _expire(self) -> None:
        self.timed_out = True
        self._kill()

    def _kill(self) -> None:
        if self._process is not None:
            # A provider's kill may take seconds, and the watcher must not wait.
            threading.Thread(target=self._process.kill, daemon=True).start()
