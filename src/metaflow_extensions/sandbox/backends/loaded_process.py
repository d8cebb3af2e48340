"""A command that a loader started inside (``guest/exec_loader.py``): its output, its input, and its end."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from typing import Protocol

from ..errors import CommandTimeout, SandboxLost, StartFailed, UnsupportedOption
from ..guest.exec_loader import COUNT, END_IN, ERR, FAILED, GIVEN, IN, JOB, KILL, OUT, STARTED, TAKEN, WINDOW
from .async_calls import AsyncCalls
from .inner_command import job
from .interface import Command, Output, Stream

CHUNK = 64 * 1024  # bytes
TAKEN_AFTER = WINDOW // 4  # bytes
START = 60.0  # seconds for the loader to start the command
KILLING = 10.0  # seconds for the loader to kill it
KILLED = 137
STREAMS = {OUT: Stream.STDOUT, ERR: Stream.STDERR}
OnFrame = Callable[[int, bytes], None]
"""Gets the kind and content of each frame from the loader."""
OnEnd = Callable[["int | SandboxLost"], None]
"""Gets once the exit code, or why there is none."""


class Connection(Protocol):
    """What passes frames to a loader and from it, all in the thread of the loop."""

    @property
    def resumes(self) -> bool:
        """Whether it connects again to a loader that lives on."""

    @property
    def force(self) -> Callable[[], Awaitable[None]]:
        """Has the provider end a loader that does not answer."""

    async def open(self) -> None:
        """Start the loader. Raises StartFailed."""

    def send(self, kind: int, payload: bytes = b"") -> None:
        """Queue one frame; those of one thread arrive in order."""

    def end(self, outcome: int | SandboxLost) -> None:
        """Tell how it ended, once, and stop."""


class LoadedProcess:
    """One command; ``output`` is for one reader, the other methods may be called from any thread.

    ``connect`` makes the connection, from who gets its frames and its end; ``lost`` says why the sandbox is
    gone, if it is for another reason than this object's ``kill``.
    """

    def __init__(
        self,
        calls: AsyncCalls,
        connect: Callable[[OnFrame, OnEnd], Connection],
        *,
        stdin: bool,
        lost: Callable[[], str | None],
    ) -> None:
        self._calls = calls
        self._stdin = stdin
        self._lost = lost
        self._connection = connect(self._frame, self._end)
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
        content = json.dumps(job(command, resumes=self._connection.resumes)).encode()
        try:
            self._calls.call(self._connection.open, START)
        except CommandTimeout as error:
            raise StartFailed(f"the command does not start: {error}") from error
        self._tell(JOB, content)
        with self._changed:
            in_time = self._changed.wait_for(lambda: self._started or self._is_over(), START)
        if not self._started:
            reason = self._refused or self._outcome or f"it takes longer than {START:g} s"
            if not in_time:
                self.kill()
            raise StartFailed(f"the command does not start: {reason}")

    def output(self) -> Iterator[Output]:
        """Chunks in order of arrival. Raises SandboxLost when the sandbox goes away under the command."""
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
        if self._ends_in_time():
            return
        self._calls.start(self._connection.force)
        if not self._ends_in_time():
            # Whatever still runs ends with the sandbox.
            self._calls.soon(self._connection.end, KILLED)

    def lose(self, reason: str) -> None:
        """The sandbox goes: whoever reads, waits or sends is told so."""
        self._calls.soon(self._connection.end, SandboxLost(reason))
        with self._changed:
            self._changed.wait_for(lambda: self._outcome is not None)

    def _tell(self, kind: int, payload: bytes = b"") -> None:
        self._calls.soon(self._connection.send, kind, payload)

    def _ends_in_time(self) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._outcome is not None, KILLING)

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
