"""One sandbox: a box, and the commands in it."""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from boxlite import BoxliteError

from ...errors import CommandTimeout, SandboxLost
from .. import inner_files
from ..interface import Command, SandboxSpec
from ..lifetime import Lifetime
from ..loaded_process import LoadedProcess
from ..local_state import LocalState
from ..warden import Warden
from .attachment import Attachment
from .runtime import Runtime


class BoxliteSandbox:
    """A box that runs; close it in the process that opened it."""

    def __init__(
        self,
        runtime: Runtime,
        box: Any,
        spec: SandboxSpec,
        state: LocalState,
        warden: Warden,
        pid: int | None,
    ) -> None:
        self.id = state.id
        self._runtime = runtime
        self._box = box
        self._state = state
        self._warden = warden
        self._processes: list[LoadedProcess] = []
        self._changing = threading.Lock()
        if pid and runtime.home and sys.platform.startswith("linux"):
            state.record(pid)
        self._lifetime = Lifetime(state, spec.lifetime, self._expire)

    def start(self, command: Command) -> LoadedProcess:
        """Start a command. Raises StartFailed, or SandboxLost after the end."""
        with self._changing:
            self._lifetime.check()
            process = LoadedProcess(
                self._runtime.calls,
                functools.partial(Attachment, self._box, self._alive),
                stdin=command.stdin,
                lost=self._lifetime.why_lost,
            )
            self._processes.append(process)
        process.begin(command)
        return process

    def put(self, source: Path, target: PurePosixPath) -> None:
        """Copy a file in, readable by everyone there."""
        self._lifetime.check()
        inner_files.put(self.start, source, target)

    def get(self, source: PurePosixPath, target: Path) -> None:
        """Copy a regular file out. Raises FileNotFoundError, or PermissionError for a link."""
        self._lifetime.check()
        inner_files.get(self.start, source, target)

    def close(self) -> None:
        """Remove the box and every trace; idempotent. Raises SandboxLost when BoxLite does not remove it."""
        with self._changing:
            if self._lifetime.close():
                return
            for process in self._processes:
                process.lose(f"sandbox {self.id} was closed")
            # The SDK's home stays locked while there is a handle.
            self._box = None
            self._processes.clear()
            try:
                self._runtime.remove(self.id)
            except (BoxliteError, CommandTimeout) as error:
                raise SandboxLost(
                    f"the box {self._runtime} can't be removed ({error}): boxlite rm --force {self.id}"
                ) from error
            finally:
                self._state.destroy()
                self._warden.forget(self.id)

    def stats(self) -> Mapping[str, float]:
        """Nothing: the SDK measures the machine, not the step."""
        return {}

    async def _alive(self) -> bool:
        return await self._runtime.runs(self.id)

    def _expire(self) -> None:
        for process in list(self._processes):
            process.lose(self._lifetime.why_lost() or "")
