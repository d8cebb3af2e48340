"""The launcher's hold on a loader inside: frames to it and from it, all in the thread of the SDK's loop.

A stream that breaks says nothing about the loader, which goes on: it is connected to again, and sends
again what did not arrive. Input that nobody confirmed is sent again, too. What ends a link is the
loader's own word, or E2B's that the sandbox is gone, or a silence that is too long.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import shlex
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from e2b import AsyncCommandHandle, AsyncSandbox, CommandExitException
from e2b.exceptions import NotFoundException

from ...errors import SandboxLost, StartFailed
from ...guest import exec_loader
from ...guest.exec_loader import BYE, COUNT, LAST, LOST, RESUME, STAY, TAKEN
from ..inner_files import PYTHON
from ..loaded_process import OnEnd, OnFrame
from .failures import GONE, failure, translated
from .inlet import Inlet
from .lines import Lines

LOADER = f"exec {PYTHON} -I -S -c {shlex.quote(Path(exec_loader.__file__).read_text(encoding='utf-8'))}"
USER = "root"
ANSWER = 30.0  # seconds for one answer of the sandbox
STAY_EVERY = 60.0  # seconds
QUIET = 15.0  # seconds, three of the loader's beats: then E2B is asked
LONGEST_QUIET = 120.0
PAUSE = 5.0  # seconds between two tries to connect again
LAST_WORDS = 5.0  # seconds for them
ERRORS_KEPT = 4096  # characters
# The last SDK for Python 3.10 always keeps all output in memory.
_FORGETTING = (
    {"retain_output": False} if "retain_output" in inspect.signature(AsyncCommandHandle).parameters else {}
)


class Link:
    """One loader; ``give_up`` ends the sandbox, for a loader that does not answer."""

    resumes = True

    def __init__(
        self,
        sandbox: AsyncSandbox,
        give_up: Callable[[], Awaitable[None]],
        on_frame: OnFrame,
        on_end: OnEnd,
    ) -> None:
        self._sandbox = sandbox
        self.force = give_up
        self._on_frame, self._on_end = on_frame, on_end
        self._lines = Lines()
        self._asked = (-1, 0.0)  # to send again what follows that number, and when
        self._heard = 0.0
        self._errors = ""
        self._inlet = Inlet(self._give)
        self._handle: Any = None
        self._stream = 0  # its number: an earlier one is not listened to any more
        self._pid = 0
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ended = False

    async def open(self) -> None:
        """Start the loader. Raises StartFailed."""
        try:
            self._handle = await self._sandbox.commands.run(
                LOADER, background=True, stdin=True, timeout=0, user=USER, cwd="/", **self._ears()
            )
        except Exception as error:  # the SDK raises what it likes
            raise StartFailed(str(translated(error, "the loader of a command"))) from error
        self._pid = self._handle.pid
        self._heard = _now()
        parts = {
            "follow": self._follow(),
            "write": self._inlet.run(),
            "watch": self._watch(),
            "stay": self._stay(),
        }
        self._tasks = {name: asyncio.ensure_future(part) for name, part in parts.items()}

    def send(self, kind: int, payload: bytes = b"") -> None:
        """Queue one frame; those of one thread arrive in order."""
        self._inlet.send(kind, payload + COUNT.pack(self._lines.received) if kind == TAKEN else payload)

    def end(self, outcome: int | SandboxLost) -> None:
        """Tell how it ended, once, and stop."""
        if not self._ended:
            self._ended = True
            self._on_end(outcome)
            if self._handle:
                self.send(BYE)
                self._tasks["leave"] = asyncio.ensure_future(self._leave())

    async def _leave(self) -> None:
        await self._inlet.drain(LAST_WORDS)
        for name, task in self._tasks.items():
            if name != "leave":
                task.cancel()
        await self._handle.disconnect()

    # --- what comes out -------------------------------------------------------------------------

    async def _follow(self, *, broken: bool = False) -> None:
        """Listen to one stream after the other, until the loader has ended."""
        while True:
            try:
                if broken:
                    self._lines.restart()
                    self._handle = await self._sandbox.commands.connect(self._pid, timeout=0, **self._ears())
                    broken = False
                    self._ask_again(anyhow=True)
                await self._handle.wait()
            except GONE as error:
                self.end(SandboxLost(f"E2B's sandbox is gone: {error}"))
            except (CommandExitException, NotFoundException):
                self._lose_loader()
            except Exception:  # noqa: BLE001 -- whatever a broken stream raises in the SDK and below
                if broken:
                    await asyncio.sleep(PAUSE)
                broken = True
                continue
            else:
                self._lose_loader()
            return

    def _ears(self) -> dict[str, Any]:
        self._stream += 1
        hear = functools.partial(self._hear, self._stream)
        return {"on_stdout": hear, "on_stderr": self._hear_error, "request_timeout": ANSWER, **_FORGETTING}

    def _hear(self, stream: int, text: str) -> None:
        if stream != self._stream:
            return
        self._heard = _now()
        for kind, payload in self._lines.feed(text):
            if kind == LOST:
                self.end(SandboxLost("what was on its way into the sandbox is lost"))
            elif kind == LAST:
                self.end(COUNT.unpack(payload)[0])
            elif not self._ended:
                self._on_frame(kind, payload)
        if self._lines.gap:
            self._ask_again()

    def _hear_error(self, text: str) -> None:
        self._errors = (self._errors + text)[-ERRORS_KEPT:]

    def _ask_again(self, *, anyhow: bool = False) -> None:
        """Have the loader send what follows the last frame that arrived, once for all that came too early."""
        number, when = self._asked
        if anyhow or number != self._lines.received or _now() - when > 1.0:
            self._asked = (self._lines.received, _now())
            self.send(RESUME, COUNT.pack(self._lines.received))

    def _lose_loader(self) -> None:
        """It ended without a last word, or can't be started."""
        said = self._errors.strip()
        if self._lines.received:
            self.end(SandboxLost(f"what ran the command in E2B's sandbox was killed. {said}".strip()))
        else:
            self.end(SandboxLost(f"{PYTHON} of the image does not run: {said or 'it says nothing'}"))

    # --- what goes in ---------------------------------------------------------------------------

    async def _give(self, data: bytes) -> bool:
        given = self._sandbox.commands.send_stdin(self._pid, data, request_timeout=ANSWER)
        error = await failure(given, 2 * ANSWER)
        if isinstance(error, GONE):
            self.end(SandboxLost(f"E2B's sandbox is gone: {error}"))
        # Without the loader nothing arrives any more: how it ended is heard elsewhere.
        return error is None or isinstance(error, (*GONE, NotFoundException))

    async def _stay(self) -> None:
        """A loader that hears nothing takes its launcher for dead."""
        while True:
            await asyncio.sleep(STAY_EVERY)
            self.send(STAY, COUNT.pack(self._lines.received))

    # --- silence --------------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(max(1.0, self._heard + QUIET - _now()))
            quiet = _now() - self._heard
            if quiet < QUIET:
                continue
            if quiet > LONGEST_QUIET:
                self.end(SandboxLost(f"E2B's sandbox has said nothing for {quiet:.0f} s"))
                return
            error = await failure(AsyncSandbox.get_info(self._sandbox.sandbox_id), ANSWER)
            if isinstance(error, GONE):
                self.end(SandboxLost(f"E2B's sandbox is gone: {error}"))
                return
            if error:
                continue
            # It lives: perhaps it is the stream that does not.
            self._tasks["follow"].cancel()
            await self._handle.disconnect()
            self._tasks["follow"] = asyncio.ensure_future(self._follow(broken=True))
            await asyncio.sleep(QUIET)


def _now() -> float:
    return asyncio.get_running_loop().time()
