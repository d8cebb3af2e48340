"""The commands of a scripted sandbox: plain child processes, or an outcome that costs none."""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from ..backends.interface import Output, Stream
from ..errors import SandboxLost, StartFailed, UnsupportedOption
from .process_tree import kill_tree
from .script import Outcome

_CHUNK = 65536
_TICK = 0.05  # seconds between looks at a command that has fallen silent
KILLED = 128 + 9


class ChildProcess:
    """A command run as a child process in a session of its own.

    ``lost_at`` is a time.monotonic() at which ``lose`` is called; ``alive`` says whether the sandbox
    still stands, which another process may have ended.
    """

    def __init__(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        cwd: Path,
        *,
        stdin: bool,
        lost_at: float | None,
        lose: Callable[[], None],
        alive: Callable[[], bool],
    ) -> None:
        try:
            self._child = subprocess.Popen(
                list(argv),
                env=dict(env),
                cwd=cwd,
                stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,
            )
        except (OSError, ValueError, IndexError) as error:
            raise StartFailed(f"{list(argv)[:1]!r:.200} can't be started in {cwd}: {error}") from error
        assert self._child.stdout is not None and self._child.stderr is not None
        self._marker = f"TMPDIR={env['TMPDIR']}"
        self._pipes = {self._child.stdout: Stream.STDOUT, self._child.stderr: Stream.STDERR}
        self._lost_at = lost_at
        self._lose = lose
        self._alive = alive
        self._lost: str | None = None
        self._settled = False  # how it ended, own code or lost, is known and stays
        self._swept = False
        self._reading, self._sweeping, self._sending = threading.Lock(), threading.Lock(), threading.Lock()

    def output(self) -> Iterator[Output]:
        """Yield chunks until both streams end, or the command has ended and they hold no more."""
        with selectors.PollSelector() as selector:  # the one that holds no descriptor
            with self._reading:
                for pipe in self._pipes:
                    if not pipe.closed:
                        selector.register(pipe, selectors.EVENT_READ)
            while selector.get_map():
                ended = self._child.poll() is not None
                if ended:
                    self._sweep()
                ready = [key.fileobj for key, _ in selector.select(0 if ended else _TICK)]
                for pipe, stream in self._pipes.items():
                    if pipe in ready:
                        data = self._read(pipe.fileno() if not pipe.closed else -1)
                        if data:
                            yield Output(stream, data)
                        else:
                            selector.unregister(pipe)
                if ended and not ready:
                    break
                self._check_time()
        self.wait()

    def send(self, data: bytes) -> None:
        """Write to standard input; BrokenPipeError once the command doesn't read any more."""
        stdin = self._child.stdin
        if stdin is None:
            raise UnsupportedOption("the command has no standard input: start it with Command(stdin=True)")
        with self._sending:
            if stdin.closed:
                raise BrokenPipeError("standard input is closed")
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(stdin.fileno(), rest) :]
            if not data:
                stdin.close()

    def wait(self) -> int:
        """Return the exit code; SandboxLost when the sandbox went away first."""
        while True:
            try:
                left = None if self._lost_at is None else max(0.0, self._lost_at - time.monotonic())
                code = self._child.wait(left)
                break
            except subprocess.TimeoutExpired:
                self._check_time()
        self._sweep()
        if not self._settled:
            if not self._alive():
                self._lost = "the sandbox was destroyed under its command"
            self._settled = True
        if self._lost is not None:
            raise SandboxLost(self._lost)
        return code if code >= 0 else 128 - code

    def kill(self) -> None:
        """Kill the command and what it started."""
        if self._child.poll() is None:
            kill_tree(self._child.pid, self._marker)
        self._child.wait()
        self._sweep()

    def lose(self, message: str) -> None:
        """Kill a running command, whose readers then get SandboxLost."""
        if not self._settled and self._child.poll() is None:
            self._lost = message
        self._settled = True
        self.kill()

    def release(self) -> None:
        """Close the pipes of an ended command."""
        with self._reading, self._sending:
            for pipe in (*self._pipes, self._child.stdin):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()

    def _read(self, descriptor: int) -> bytes:
        with self._reading:
            if any(pipe.closed for pipe in self._pipes):
                return b""
            return os.read(descriptor, _CHUNK)

    def _sweep(self) -> None:
        """End what the ended command left behind, once."""
        with self._sweeping:
            if not self._swept:
                kill_tree(self._child.pid, self._marker)
                self._swept = True

    def _check_time(self) -> None:
        if self._lost_at is not None and time.monotonic() >= self._lost_at:
            self._lost_at = None
            self._lose()


class ScriptedProcess:
    """A command that is not run: it ends as scripted, and waiting for it costs neither thread nor loop."""

    def __init__(self, outcome: Outcome, *, lost_at: float | None, lose: Callable[[], None]) -> None:
        self._outcome = outcome
        self._ends_at = time.monotonic() + outcome.seconds
        self._lost_at = lost_at if lost_at is not None and lost_at < self._ends_at else None
        self._lose = lose
        self._over = threading.Event()
        self._deciding = threading.Lock()
        self._code: int | None = None
        self._lost: str | None = None

    def output(self) -> Iterator[Output]:
        """Yield the scripted output, and end when the command does."""
        if self._outcome.stdout:
            yield Output(Stream.STDOUT, self._outcome.stdout)
        if self._outcome.stderr:
            yield Output(Stream.STDERR, self._outcome.stderr)
        self.wait()

    def send(self, data: bytes) -> None:
        """Take what nobody reads."""

    def wait(self) -> int:
        """Return the scripted exit code once its time has come."""
        until = self._ends_at if self._lost_at is None else self._lost_at
        if not self._over.wait(max(0.0, until - time.monotonic())) and self._lost_at is not None:
            self._lose()
        self._decide(self._outcome.exit_code, None)
        if self._lost is not None:
            raise SandboxLost(self._lost)
        assert self._code is not None
        return self._code

    def kill(self) -> None:
        """End it now, unless it has ended."""
        if time.monotonic() < self._ends_at:
            self._decide(KILLED, None)

    def lose(self, message: str) -> None:
        """End it now as the sandbox's end, unless it has ended."""
        if time.monotonic() < self._ends_at:
            self._decide(KILLED, message)

    def release(self) -> None:
        """Nothing is held."""

    def _decide(self, code: int, lost: str | None) -> None:
        with self._deciding:
            if self._code is None:
                self._code, self._lost = code, lost
        self._over.set()
