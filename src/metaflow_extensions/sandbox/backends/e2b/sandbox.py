"""One sandbox of E2B, and the commands in it."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from e2b import AsyncSandbox

from .. import inner_files
from ..async_calls import loop
from ..interface import Command, SandboxSpec
from ..lifetime import Elsewhere, Lifetime
from ..loaded_process import LoadedProcess
from ..warden import Warden
from . import files, leftovers
from .account import ANSWER
from .creation import time_to_live
from .failures import failure
from .link import Link

RENEW = 300.0  # seconds


class E2BSandbox:
    """A virtual machine that runs; close it in the process that opened it."""

    def __init__(self, sandbox: AsyncSandbox, spec: SandboxSpec, guard: Warden) -> None:
        self.id: str = sandbox.sandbox_id
        self._sandbox = sandbox
        self._spec = spec
        self._guard = guard
        self._processes: list[LoadedProcess] = []
        self._changing = threading.Lock()
        self._lifetime = Lifetime(Elsewhere(self.id), spec.lifetime, self._expire)
        self._staying = loop().start(self._stay)

    def start(self, command: Command) -> LoadedProcess:
        """Start a command. Raises StartFailed, or SandboxLost after the end."""
        with self._changing:
            self._lifetime.check()
            process = LoadedProcess(
                loop(),
                functools.partial(Link, self._sandbox, self._give_up),
                stdin=command.stdin,
                lost=self._lifetime.why_lost,
            )
            self._processes.append(process)
        process.begin(command)
        return process

    def put(self, source: Path, target: PurePosixPath) -> None:
        """Copy a file in, readable by everyone there."""
        self._lifetime.check()
        files.put(self._sandbox, self.start, source, target)

    def get(self, source: PurePosixPath, target: Path) -> None:
        """Copy a regular file out. Raises FileNotFoundError, or PermissionError for a link."""
        self._lifetime.check()
        inner_files.get(self.start, source, target, self.read)

    def read(self, source: PurePosixPath) -> Iterator[bytes]:
        """A file's content. Raises FileNotFoundError."""
        self._lifetime.check()
        return files.read(self._sandbox, source)

    def close(self) -> None:
        """End it; idempotent. One that E2B takes its time to end is seen to in the background."""
        with self._changing:
            if self._lifetime.close():
                return
            self._staying.cancel()
            self._lose_all(f"sandbox {self.id} was closed: open a new one")
            leftovers.remove(self.id, self._guard)

    def stats(self) -> Mapping[str, float]:
        """Nothing: E2B measures the machine, not the step."""
        return {}

    async def _stay(self) -> None:
        """Keep E2B from ending it as long as its launcher is here."""
        while True:
            await asyncio.sleep(RENEW)
            seconds = time_to_live(self._spec.lifetime)
            # One that fails is followed by another in time; that it is gone, the links hear.
            await failure(self._sandbox.set_timeout(seconds), ANSWER)

    def _expire(self) -> None:
        self._lose_all(self._lifetime.why_lost() or "")
        leftovers.remove(self.id)

    async def _give_up(self) -> None:
        self._lifetime.lose(f"sandbox {self.id} had a command that could not be killed: open a new one")
        await leftovers.kill_surely(self.id)

    def _lose_all(self, reason: str) -> None:
        for process in list(self._processes):
            process.lose(reason)
