"""One sandbox, and the commands in it."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from ...errors import SandboxLost, StartFailed
from ..interface import Command, SandboxSpec
from ..warden import Warden
from . import files
from .leftovers import remove
from .process import DaytonaProcess
from .toolbox import CONTROL, PLACE, Toolbox

_opened: dict[str, Mapping[str, str]] = {}


def opened() -> Mapping[str, Mapping[str, str]]:
    """Labels of this process's open sandboxes, by id: lists of Daytona may not have them yet."""
    return dict(_opened)


class DaytonaSandbox:
    """A sandbox that runs; close it in the process that opened it."""

    def __init__(self, sandbox: Any, spec: SandboxSpec, warden: Warden) -> None:
        self.id = str(sandbox.name)
        self._spec = spec
        self._warden = warden
        self._toolbox = Toolbox(sandbox, self._why_lost, extends=not spec.lifetime)
        self._processes: list[DaytonaProcess] = []
        self._numbers = itertools.count()
        self._closing = threading.Lock()
        self._closed = self._removed = self._expired = False
        _opened[self.id] = spec.labels
        self._timer = threading.Timer(spec.lifetime, self._expire) if spec.lifetime else None
        if self._timer:
            self._timer.daemon = True
            self._timer.start()

    def start(self, command: Command) -> DaytonaProcess:
        """Start a command. Raises StartFailed, or SandboxLost after the end."""
        check(command)
        self._ensure_open()
        name = f"command-{next(self._numbers)}"
        job = {
            "argv": list(command.argv),
            "env": dict(command.env),
            "cwd": str(command.cwd) if command.cwd else None,
            "stdin": command.stdin,
            "place": PLACE,
        }
        self._toolbox.upload({f"{CONTROL}/{name}.job": json.dumps(job).encode()})
        reason = self._toolbox.start(name)
        if reason:
            raise StartFailed(f"the command does not start: {reason}")
        process = DaytonaProcess(self._toolbox, name, stdin=command.stdin, lost=self._why_lost)
        self._processes.append(process)
        return process

    def put(self, source: Path, target: PurePosixPath) -> None:
        """Copy a file in, readable by everyone there."""
        self._ensure_open()
        files.put(self._toolbox, f"put-{next(self._numbers)}", source, target)

    def get(self, source: PurePosixPath, target: Path) -> None:
        """Copy a regular file out. Raises FileNotFoundError, or PermissionError for a link."""
        self._ensure_open()
        files.get(self.start, source, target)

    def close(self) -> None:
        """Have the sandbox removed; idempotent. Raises SandboxLost when Daytona does not accept that."""
        self._closed = True
        self._toolbox.close()
        if self._timer:
            self._timer.cancel()
        for process in self._processes:
            process.lose(f"sandbox {self.id} was closed")
        with self._closing:
            if not self._removed:
                remove(self.id)
                # Only now: what could not be removed is the warden's to try again.
                self._removed = True
                self._warden.forget(self.id)
                _opened.pop(self.id, None)

    def stats(self) -> Mapping[str, float]:
        """Nothing: Daytona measures the sandbox, not the step."""
        return {}

    def _ensure_open(self) -> None:
        reason = self._why_lost()
        if reason:
            raise SandboxLost(reason)

    def _why_lost(self) -> str | None:
        if self._expired:
            return f"sandbox {self.id} passed its lifetime of {self._spec.lifetime} s: ask for a longer one"
        return f"sandbox {self.id} was closed: open a new one" if self._closed else None

    def _expire(self) -> None:
        self._expired = True
        self._toolbox.close()
        for process in list(self._processes):
            process.lose(self._why_lost() or "")


def check(command: Command) -> None:
    """Raise StartFailed for what no system starts."""
    texts = [*command.argv, *command.env, *command.env.values(), str(command.cwd or "")]
    if any("\0" in text for text in texts):
        raise StartFailed("a command, its environment and its directory can't hold NUL characters")
    if not command.argv or not command.argv[0]:
        raise StartFailed("a command needs a program")
    if any(not name or "=" in name for name in command.env):
        raise StartFailed("names of a command's environment can't be empty or hold '='")
