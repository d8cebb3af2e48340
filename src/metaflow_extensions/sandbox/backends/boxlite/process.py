"""A command in a box: its output and input as the loader passes them on, and how it ends."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from boxlite import BoxliteError

from ...errors import CommandTimeout, SandboxLost, StartFailed, UnsupportedOption
from ...guest.exec_loader import COUNT, END_IN, ERR, FAILED, GIVEN, IN, JOB, KILL, OUT, STARTED, TAKEN, WINDOW
from ..async_calls import AsyncCalls
from ..interface import Command, Output, Stream
from .attachment import KILLED, Attachment

CHUNK = 64 * 1024  # bytes
TAKEN_AFTER = WINDOW // 4  # bytes
START = 60.0  # seconds for the loader to start the command
KILLING = 10.0  # seconds for the loader to kill it
STREAMS = {OUT: Stream.STDOUT, ERR: Stream.STDERR}


class BoxliteProcess:
    """One command; ``output`` is for one reader, the other methods may be called from any thread.

    ``lost`` says why the sandbox is gone, if it is for another reason than this object's ``kill``.
    """

    def __init__(
        self,
        calls: AsyncCalls,
        box: Any,
        *,
        stdin: bool,
        alive: Callable[[], Awaitable[bool]],
        lost: Callable[[], str | None],
    ) -> None:
        self._calls = calls
        self._stdin = stdin
        self._lost = lost
        self._attachment = Attachment(box, self._frame, self._end, alive)
        self._changed = threading.Condition()
        self._sending = threading.Lock()
        self._chunks: deque[Output] = deque()
        self._taken = 0
        self._credit = WINDOW
        self._started = False
        self._refused: str | None = None
        self._input_ended = False
        self._killed = False
        self._outcome: int | SandboxLost | None = None

    def begin(self, command: Command) -> None:
        """Returns when the command runs. Raises StartFailed, and then nothing of it ran."""
        job = {
            "argv": list(command.argv),
            "env": dict(command.env),
            "cwd": str(command.cwd) if command.cwd else None,
            "stdin": command.stdin,
        }
        try:
            self._calls.call(self._attachment.open(), START)
        except (BoxliteError, CommandTimeout) as error:
            raise StartFailed(f"the box does not start a command: {error}") from error
        self._tell(JOB, json.dumps(job).encode())
        with self._changed:
            in_time = self._changed.wait_for(lambda: self._started or self._is_over(), START)
        if not self._started:
            reason = self._refused or self._outcome or f"it takes longer than {START:g} s"
            if not in_time:
                self.kill()
            raise StartFailed(f"the command does not start: {reason}")

    def output(self) -> Iterator[Output]:
        """Chunks in order of arrival. Raises SandboxLost when the box goes away under the command."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._chunks or self._outcome is not None)
                if not self._chunks:
                    break
                chunk = self._chunks.popleft()
                self._taken += len(chunk.data)
                taken = self._taken if self._taken >= TAKEN_AFTER else 0
                self._taken -= taken
            if taken:
                self._tell(TAKEN, COUNT.pack(taken))
            yield chunk
        self.wait()

    def send(self, data: bytes) -> None:
        """Write to standard input; ``b""`` ends it. Raises SandboxLost when nobody reads it any more."""
        if not self._stdin:
            raise UnsupportedOption("this command has no standard input: start it with Command(stdin=True)")
        with self._sending:
            if not data:
                self._input_ended = True
                self._tell(END_IN)
                return
            if self._input_ended:
                raise SandboxLost("the command's standard input has been closed: send before that")
            for at in range(0, len(data), CHUNK):
                part = data[at : at + CHUNK]
                with self._changed:
                    self._changed.wait_for(lambda: self._credit >= CHUNK or self._outcome is not None)
                    if self._outcome is not None:
                        raise SandboxLost("the command reads its standard input no more: see its exit code")
                    self._credit -= len(part)
                self._tell(IN, part)

    def wait(self) -> int:
        """The exit code. Raises SandboxLost."""
        with self._changed:
            self._changed.wait_for(lambda: self._outcome is not None)
        assert self._outcome is not None
        if isinstance(self._outcome, SandboxLost):
            raise self._outcome
        return self._outcome

    def kill(self) -> None:
        """Kill the command and all that it started; idempotent."""
        with self._changed:
            if self._outcome is not None:
                return
            self._killed = True
        self._tell(KILL)
        with self._changed:
            if self._changed.wait_for(lambda: self._outcome is not None, KILLING):
                return
        self._calls.start(self._attachment.kill())
        with self._changed:
            if self._changed.wait_for(lambda: self._outcome is not None, KILLING):
                return
        # Whatever still runs ends with the box.
        self._calls.soon(self._attachment.end, KILLED)

    def lose(self, reason: str) -> None:
        """The sandbox goes: whoever reads, waits or sends is told so."""
        self._calls.soon(self._attachment.end, SandboxLost(reason))
        with self._changed:
            self._changed.wait_for(lambda: self._outcome is not None)

    def _tell(self, kind: int, payload: bytes = b"") -> None:
        self._calls.soon(self._attachment.send, kind, payload)

    def _is_over(self) -> bool:
        return self._outcome is not None or self._refused is not None

    def _frame(self, kind: int, payload: bytes) -> None:
        """In the loop's thread."""
        with self._changed:
            if kind in STREAMS:
                self._chunks.append(Output(STREAMS[kind], payload))
            elif kind == GIVEN:
                self._credit += COUNT.unpack(payload)[0]
            elif kind == STARTED:
                self._started = True
            elif kind == FAILED:
                self._refused = payload.decode(errors="replace")
            self._changed.notify_all()

    def _end(self, outcome: int | SandboxLost) -> None:
        """In the loop's thread."""
        reason = self._lost()
        if self._killed and isinstance(outcome, SandboxLost):
            outcome = KILLED
        elif reason and not self._killed:
            outcome = SandboxLost(reason)
        with self._changed:
            self._outcome = outcome
            self._changed.notify_all()
