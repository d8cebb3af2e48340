"""The launcher's end of a loader: frames to it and from it, all in the thread of the loop.

The SDK queues without a bound and may wait for ever for a server that is gone: what is under way is counted
by the loader's credits, and its signs of life are listened for here.
"""

from __future__ import annotations

import asyncio
import binascii
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from boxlite import BoxliteError

from ...errors import SandboxLost, StartFailed
from ...guest import exec_loader
from ...guest.exec_loader import BYE, HEAD, LAST, LOST, STAY
from ..inner_files import PYTHON
from ..loaded_process import KILLED, OnEnd, OnFrame

PROGRAM = Path(exec_loader.__file__).read_text(encoding="utf-8")
FOREVER = 365 * 86400.0  # seconds; without any the SDK chooses
STAY_EVERY = 60.0  # seconds
QUIET = 15.0  # seconds, three of the loader's beats: then the runtime is asked
LONGEST_QUIET = 60.0
ANSWER = 10.0  # seconds for it
ERRORS_KEPT = 4096  # characters


class Attachment:
    """One exec of the loader; ``alive`` tells whether the box still runs."""

    resumes = False

    def __init__(
        self, box: Any, alive: Callable[[], Awaitable[bool]], on_frame: OnFrame, on_end: OnEnd
    ) -> None:
        self._box = box
        self._on_frame, self._on_end, self._alive = on_frame, on_end, alive
        self._outgoing: asyncio.Queue[bytes] = asyncio.Queue()
        self._sent = self._received = 0
        self._heard = 0.0
        self._errors = ""
        self._complete = self._dismissed = False
        self._execution: Any = None
        self._tasks: list[asyncio.Task[None]] = []
        self._ended = False

    async def open(self) -> None:
        """Start the loader. Raises StartFailed."""
        try:
            self._execution = await self._box.exec(
                PYTHON, ["-I", "-S", "-c", PROGRAM], timeout_secs=FOREVER, cwd="/"
            )
        except BoxliteError as error:
            raise StartFailed(f"the box does not start a command: {error}") from error
        self._heard = asyncio.get_running_loop().time()
        parts = (self._write(), self._read(), self._read_errors(), self._watch(), self._stay())
        self._tasks = [asyncio.ensure_future(part) for part in parts]

    def send(self, kind: int, payload: bytes = b"") -> None:
        """Queue one frame; those of one thread arrive in order. None follows the farewell."""
        if self._dismissed:
            return
        self._dismissed = kind == BYE
        self._sent += 1
        self._outgoing.put_nowait(HEAD.pack(kind, self._sent, len(payload)) + payload)

    async def force(self) -> None:
        """Have the runtime kill the loader, which may not answer any more."""
        with contextlib.suppress(BoxliteError):
            await asyncio.wait_for(self._execution.kill(), ANSWER)

    def end(self, outcome: int | SandboxLost) -> None:
        """Tell how it ended, once, and stop."""
        if self._ended:
            return
        self._ended = True
        current = asyncio.current_task()
        for task in self._tasks:
            if task is not current:
                task.cancel()
        self._on_end(outcome)

    async def _write(self) -> None:
        stdin = self._execution.stdin()
        while True:
            frame = await self._outgoing.get()
            try:
                await stdin.send_input(frame)
            except BoxliteError:
                return  # it has ended: how, is heard elsewhere

    async def _stay(self) -> None:
        """A loader that hears nothing takes its launcher for dead."""
        while True:
            await asyncio.sleep(STAY_EVERY)
            self.send(STAY)

    async def _read(self) -> None:
        rest = ""
        try:
            async for text in self._execution.stdout():
                self._heard = asyncio.get_running_loop().time()
                *lines, rest = (rest + text).split("\n")
                for line in lines:
                    self._take(line)
            self.end(await self._outcome())
        except (BoxliteError, binascii.Error, ValueError) as error:
            self.end(SandboxLost(f"the connection to the box broke: {error}"))
        except SandboxLost as error:
            self.end(error)

    def _take(self, line: str) -> None:
        frame = binascii.a2b_base64(line)
        if len(frame) < HEAD.size:
            raise SandboxLost(f"the box sent what no loader sends: {line[:80]!r}")
        kind, number, length = HEAD.unpack_from(frame)
        self._received += 1
        if number != self._received or len(frame) != HEAD.size + length or kind == LOST:
            raise SandboxLost("the connection to the box broke, and what was on its way is lost")
        if kind == LAST:
            self._complete = True
            self.send(BYE)
        self._on_frame(kind, frame[HEAD.size :])

    async def _outcome(self) -> int | SandboxLost:
        result = await self._execution.wait()
        if result.error_message:
            return SandboxLost(f"the box lost the command: {result.error_message} {self._errors}".strip())
        if self._received == 0:
            said = self._errors.strip() or f"it ended with {result.exit_code}"
            return SandboxLost(f"{PYTHON} of the image does not run: {said}")
        code = int(result.exit_code) if result.exit_code >= 0 else 128 - int(result.exit_code)
        # The SDK asks how it ended when the connection breaks, and takes what it has for all of its output.
        # A loader that is killed, for lack of memory, says nothing either.
        if not self._complete and code != KILLED:
            return SandboxLost("the connection to the box broke before the command's last output")
        return code

    async def _read_errors(self) -> None:
        with contextlib.suppress(BoxliteError):
            async for text in self._execution.stderr():
                self._errors = (self._errors + text)[-ERRORS_KEPT:]

    async def _watch(self) -> None:
        now = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(max(0.1, self._heard + QUIET - now()))
            quiet = now() - self._heard
            if quiet < QUIET:
                continue
            if quiet > LONGEST_QUIET:
                self.end(SandboxLost(f"the box has said nothing for {quiet:.0f} s"))
                return
            try:
                alive = await asyncio.wait_for(self._alive(), ANSWER)
            except (BoxliteError, asyncio.TimeoutError) as error:
                self.end(SandboxLost(f"BoxLite does not answer any more: {error or type(error).__name__}"))
                return
            if not alive:
                self.end(SandboxLost("the box does not run any more"))
                return
            await asyncio.sleep(1)
