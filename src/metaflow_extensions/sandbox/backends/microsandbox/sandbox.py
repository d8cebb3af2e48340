"""One virtual machine; each command is an exec in it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from microsandbox import ExecEventType, MicrosandboxError, Sandbox, SandboxNotFoundError, Stdin

from ...errors import CommandTimeout, SandboxLost, StartFailed, UnsupportedOption
from ..async_calls import loop
from ..interface import Command, SandboxSpec
from ..lifetime import Elsewhere, Lifetime
from ..warden import Warden
from . import copying, loader
from .leftovers import remove, scrub
from .network import Placeholders
from .place import Place
from .process import PIECE, MicrosandboxProcess

WORK, HOME, TMP = "/sandbox/work", "/sandbox/home", "/tmp"
PYTHON = "python3"
ROOT = "0:0"  # of the virtual machine, whatever user the image names
START = 60.0  # seconds
ASK = 10.0  # seconds for a question that only words a message
_LOADER = Path(loader.__file__).read_text()
_COPYING = Path(copying.__file__).read_text()


class MicrosandboxSandbox:
    """Close it in the process that opened it."""

    def __init__(
        self,
        place: Place,
        box: Sandbox,
        sandbox_id: str,
        spec: SandboxSpec,
        secrets: Placeholders,
        warden: Warden,
    ) -> None:
        self.id = sandbox_id
        self._place, self._box, self._spec = place, box, spec
        self._secrets = secrets
        self._warden = warden
        self._calls = loop()
        self._processes: list[MicrosandboxProcess] = []
        self._changing = threading.Lock()
        self._removed = False
        self._lifetime = Lifetime(Elsewhere(sandbox_id), spec.lifetime, self._expire)

    def start(self, command: Command) -> MicrosandboxProcess:
        """Start a command. Raises StartFailed, UnsupportedOption for an image without Python, SandboxLost."""
        job = self._job(command)
        with self._changing:
            self._lifetime.check()
            name = PurePosixPath(command.argv[0]).name
            # executable= may name one that is not on the image's path.
            python = command.argv[0] if name.startswith("python") else PYTHON
            try:
                process = self._calls.call(lambda: self._start(python, job, stdin=command.stdin), START)
            except SandboxNotFoundError as error:
                raise SandboxLost(f"sandbox {self.id} is gone: {error}") from error
            except (MicrosandboxError, CommandTimeout) as error:
                raise StartFailed(f"{self._place.label} starts no command in {self.id}: {error}") from error
            self._processes.append(process)
            return process

    def put(self, source: Path, target: PurePosixPath) -> None:
        """Copy a file in, with its execute permission."""
        _check(target)
        with source.open("rb") as file:
            self._lifetime.check()
            mode = "755" if os.fstat(file.fileno()).st_mode & 0o100 else "644"
            process = self.start(
                Command([PYTHON, "-I", "-S", "-c", _COPYING, "in", str(target), mode], stdin=True)
            )
            while data := file.read(PIECE):
                process.send(data)
            process.send(b"")
        said = b"".join(chunk.data for chunk in process.output())
        if process.wait():
            raise StartFailed(f"{source} can't be put to {target}: {said.decode(errors='replace').strip()}")

    def get(self, source: PurePosixPath, target: Path) -> None:
        """Copy a regular file out; links, on the way to it too, are refused."""
        _check(source)
        process = self.start(Command([PYTHON, "-I", "-S", "-c", _COPYING, "out", str(source)]))
        draft = target.with_name(f".{target.name}.{os.urandom(4).hex()}")
        try:
            with draft.open("xb") as file:
                for chunk in process.output():
                    file.write(chunk.data)
            code = process.wait()
            if code == copying.MISSING:
                raise FileNotFoundError(f"there is no {source} in {self.id}")
            if code:
                raise UnsupportedOption(f"{source} is a link, or no regular file: only those are copied out")
            draft.replace(target)
        finally:
            process.kill()
            draft.unlink(missing_ok=True)

    def close(self) -> None:
        """Remove the virtual machine and every trace; idempotent. Raises SandboxLost when it can't be."""
        with self._changing:
            self._lifetime.close()
            if self._removed:
                return
            self._lose(f"sandbox {self.id} was closed")
            remove(self._place, self.id)
            if self._spec.secrets:
                scrub(self._place)
            # Only now: what could not be removed is the warden's to try again.
            self._removed = True
            self._warden.forget(self.id)

    def stats(self) -> Mapping[str, float]:
        """Nothing: the guest measures its own task."""
        return {}

    def _job(self, command: Command) -> bytes:
        words = (*command.argv, *command.env, *command.env.values(), str(command.cwd))
        if not command.argv or any("\0" in word for word in words):
            raise ValueError("a command needs at least one word, and nothing may hold a NUL")
        if any(not name or "=" in name for name in command.env):
            raise ValueError("names of environment variables can't be empty or hold '='")
        own = {"HOME": HOME, "TMPDIR": TMP, "LANG": "C.UTF-8", **self._secrets.variables}
        return loader.pack(
            str(command.cwd or WORK),
            command.stdin,
            [WORK, HOME],
            self._secrets.inherited,
            list(command.argv),
            {**own, **command.env},
        )

    async def _start(self, python: str, job: bytes, *, stdin: bool) -> MicrosandboxProcess:
        handle = await self._box.exec_stream(
            python, ["-I", "-S", "-c", _LOADER], cwd="/", user=ROOT, stdin=Stdin.pipe()
        )
        sink: Any = handle.take_stdin()
        first = await handle.recv()
        if first is None:
            raise StartFailed(f"sandbox {self.id} went away before a command started")
        if first.event_type != ExecEventType.STARTED:
            raise UnsupportedOption(
                f"the image {self._spec.image!r} has no {python}: image= names one with a Python, or "
                "executable= its path"
            )
        for at in range(0, len(job), PIECE):
            await sink.write(job[at : at + PIECE])
        if not stdin:
            await sink.close()
        return MicrosandboxProcess(self._calls, handle, sink, stdin=stdin, lost=self._why_lost)

    def _expire(self) -> None:
        self._lose(self._lifetime.why_lost() or "")
        with contextlib.suppress(SandboxLost, CommandTimeout):  # ``close`` tries again, and says so
            remove(self._place, self.id)

    def _lose(self, reason: str) -> None:
        for process in list(self._processes):
            process.lose(reason)

    async def _why_lost(self) -> str:
        reason = "the connection to it broke"
        with contextlib.suppress(MicrosandboxError, asyncio.TimeoutError):
            try:
                handle = await asyncio.wait_for(Sandbox.get(self.id), ASK)
                reason = f"it is {handle.status}, and the connection to it broke"
            except SandboxNotFoundError:
                reason = "it was destroyed by another process, or ended by itself"
        return self._lifetime.why_lost() or f"sandbox {self.id} was lost under its command: {reason}"


def _check(path: PurePosixPath) -> None:
    if not path.is_absolute() or ".." in path.parts or "\0" in str(path) or path == PurePosixPath("/"):
        raise UnsupportedOption(f"{str(path)!r} must be an absolute path of a file, without '..' or NUL")
