"""One sandbox, and the commands in it."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from ...errors import StartFailed
from .. import inner_files
from ..inner_command import job
from ..interface import Command, SandboxSpec
from ..lifetime import Lifetime
from ..warden import Warden
from . import files
from .client import call
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
        self._warden = warden
        self._sandbox = sandbox
        self._toolbox = Toolbox(sandbox, extends=not spec.lifetime)
        self._lifetime = Lifetime(self._toolbox, spec.lifetime, self._expire)
        self._processes: list[DaytonaProcess] = []
        self._numbers = itertools.count()
        self._closing = threading.Lock()
        self._removed = False
        _opened[self.id] = spec.labels

    def start(self, command: Command) -> DaytonaProcess:
        """Start a command. Raises StartFailed, or SandboxLost after the end."""
        text = json.dumps(job(command, place=PLACE)).encode()
        self._lifetime.check()
        name = f"command-{next(self._numbers)}"
        self._toolbox.upload({f"{CONTROL}/{name}.job": text})
        reason = self._toolbox.start(name)
        if reason:
            raise StartFailed(f"the command does not start: {reason}")
        process = DaytonaProcess(self._toolbox, name, stdin=command.stdin, lost=self._lifetime.why_lost)
        self._processes.append(process)
        return process

    def put(self, source: Path, target: PurePosixPath) -> None:
        """Copy a file in, readable by everyone there."""
        self._lifetime.check()
        files.put(self._toolbox, f"put-{next(self._numbers)}", source, target)

    def get(self, source: PurePosixPath, target: Path) -> None:
        """Copy a regular file out. Raises FileNotFoundError, or PermissionError for a link."""
        self._lifetime.check()
        inner_files.get(self.start, source, target, self.read)

    def read(self, source: PurePosixPath) -> Iterator[bytes]:
        """A file's content. Raises FileNotFoundError."""
        self._lifetime.check()
        return self._toolbox.read(source)

    def keep_as(self, name: str, seconds: float) -> None:
        """Have Daytona keep what it is now, without our programs, as a snapshot. Raises DaytonaError."""
        self._toolbox.remove_programs()
        call(lambda: self._sandbox.create_snapshot(name, seconds), seconds)

    def close(self) -> None:
        """Have the sandbox removed; idempotent. Raises SandboxLost when Daytona does not accept that."""
        self._lifetime.close()
        self._toolbox.close()
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

    def _expire(self) -> None:
        self._toolbox.close()
        for process in list(self._processes):
            process.lose(self._lifetime.why_lost() or "")
