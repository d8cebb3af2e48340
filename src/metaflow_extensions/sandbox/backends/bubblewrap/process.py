"""A command that runs under bwrap."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import threading
from collections.abc import Callable, Iterator

from ...errors import SandboxLost, StartFailed
from ..command_input import CommandInput
from ..interface import Output, Stream
from ..local_processes import wait_until_gone
from .launch import Launched

_CHUNK = 1 << 16
_KILLED = 128 + signal.SIGKILL


class BubblewrapProcess:
    """A running command; ``output`` is for one reader, the other methods may be called from any thread.

    ``lost`` says why the sandbox is gone, if it is for another reason than this object's ``kill``;
    ``ended`` is called once, after everything has ended.
    """

    def __init__(self, launched: Launched, lost: Callable[[], str | None], ended: Callable[[], None]) -> None:
        self._launched = launched
        self._lost = lost
        self._ended = ended
        self._end = threading.Lock()
        # Held around each read and write, so that no descriptor is closed under one.
        self._reading = threading.Lock()
        stdin = launched.process.stdin
        self._input = CommandInput(stdin.fileno(), stdin.close) if stdin else CommandInput(None)
        self._killed = False
        self._reason: str | None = None
        self._outcome: int | Exception | None = None
        pipes = ((launched.process.stdout, Stream.STDOUT), (launched.process.stderr, Stream.STDERR))
        self._streams = {pipe.fileno(): stream for pipe, stream in pipes if pipe}
        self._ready = select.poll()
        for number in self._streams:
            self._ready.register(number, select.POLLIN)

    def output(self) -> Iterator[Output]:
        """Chunks of up to 64 KiB in order of arrival, until every process closed both streams."""
        while True:
            with self._reading:
                chunks = self._read()
            if not chunks:
                break
            yield from (chunk for chunk in chunks if chunk.data)
        if isinstance(self._finish(), SandboxLost):
            self.wait()

    def send(self, data: bytes) -> None:
        """Write to standard input; ``b""`` ends it. Raises SandboxLost when nobody reads it any more."""
        self._input.send(data)

    def wait(self) -> int:
        """The exit code. Raises SandboxLost, or StartFailed when the program could not be executed."""
        outcome = self._finish()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def kill(self) -> None:
        """Kill the sandbox's first process, and with it all others; idempotent."""
        with self._end:
            if self._outcome is None:
                self._killed = True
                self._kill_first()

    def lose(self, reason: str) -> None:
        """End everything as something that the sandbox suffered: ``wait`` raises SandboxLost."""
        self._reason = reason
        # bwrap before the sandbox's first process, or it would report the command's death as an exit.
        self._launched.process.kill()

    def discard(self) -> None:
        """Kill, wait and close everything; for the sandbox's end."""
        self.kill()
        self._finish()
        bwrap = self._launched.process
        self._input.close()
        with self._reading:
            self._streams.clear()
            for pipe in (bwrap.stdout, bwrap.stderr):
                if pipe:
                    pipe.close()

    def _read(self) -> list[Output]:
        """What has arrived, with an empty chunk for a stream that ended; nothing after both did."""
        if not self._streams:
            return []
        chunks = [Output(self._streams[number], os.read(number, _CHUNK)) for number, _ in self._ready.poll()]
        for number, stream in list(self._streams.items()):
            if Output(stream, b"") in chunks:
                self._ready.unregister(number)
                del self._streams[number]
        return chunks

    def _finish(self) -> int | Exception:
        self._launched.process.wait()
        with self._end:
            if self._outcome is None:
                # bwrap ends with the command; what that left behind ends now at the latest.
                self._kill_first()
                wait_until_gone(self._launched.first)
                # Orphaned by bwrap, it may have become a child of this process to bury.
                with contextlib.suppress(ChildProcessError):
                    os.waitid(os.P_PIDFD, self._launched.first, os.WEXITED | os.WNOHANG)
                self._outcome = self._read_outcome()
                os.close(self._launched.first)
                os.close(self._launched.status)
                self._ended()
            return self._outcome

    def _kill_first(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._launched.first, signal.SIGKILL)

    def _read_outcome(self) -> int | Exception:
        report = b""
        while chunk := os.read(self._launched.status, _CHUNK):
            report += chunk
        for line in report.splitlines():
            status = json.loads(line)
            if "exit-code" in status:
                return int(status["exit-code"])
        if self._killed:
            return _KILLED
        reason = self._reason or self._lost()
        if reason:
            return SandboxLost(reason)
        ended = self._launched.process.returncode
        if ended < 0:
            return SandboxLost(
                f"bwrap was ended by signal {-ended}: look for the out-of-memory killer in the kernel's log"
            )
        return StartFailed(
            "bwrap could not execute the program, and said why on the command's standard error"
        )
