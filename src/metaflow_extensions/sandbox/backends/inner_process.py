"""A command that a first program of ours starts inside, with streams of the launcher's making.

The first program is reached over a unix socket: it gets a job, after its length, with the
command's three descriptors, and says in the end how the command ended. So nothing of the runtime around
it merges, echoes or forges what the command writes and how it ended.
"""

from __future__ import annotations

import abc
import os
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ..errors import SandboxLost
from .command_input import CommandInput
from .interface import Output, Stream

SIZE = struct.Struct("!I")
STATUS = struct.Struct("!I")  # as os.wait gives it
CHUNK = 65536
KILLED = 137


class InnerProcess(abc.ABC):
    """The launcher's end; a subclass starts the first program, and knows how to end it.

    ``lost`` says why the sandbox went away, None when nobody knows.
    """

    def __init__(self, lost: Callable[[], str | None]) -> None:
        self._lost = lost
        self._killed = False
        self._failure: Exception | str | None = None
        self._outcome: int | SandboxLost = KILLED
        self._ended = threading.Event()
        self._reading = threading.Lock()
        self._input = CommandInput(None)
        self._streams: dict[int, Stream] = {}

    def output(self) -> Iterator[Output]:
        """Chunks as they come, until the command and all that it started are gone. Raises SandboxLost."""
        while True:
            with self._reading:
                chunks = self._read()
            if not chunks:
                break
            yield from (chunk for chunk in chunks if chunk.data)
        self.wait()

    def send(self, data: bytes) -> None:
        """Write to standard input; ``b""`` ends it. Raises SandboxLost when nobody reads any more."""
        self._input.send(data)

    def wait(self) -> int:
        """The exit code. Raises SandboxLost."""
        self._ended.wait()
        if isinstance(self._outcome, SandboxLost):
            raise self._outcome
        return self._outcome

    def kill(self) -> None:
        """Kill the sandbox's first process, and with it all others; idempotent."""
        if not self._ended.is_set():
            self._killed = True
            self._kill_first()

    def discard(self) -> None:
        """Kill, wait and close everything; for the sandbox's end."""
        self.kill()
        self._waiter.join()
        self._close_streams()

    @abc.abstractmethod
    def _kill_first(self) -> None:
        """End the sandbox and all in it."""

    @abc.abstractmethod
    def _await_rest(self) -> None:
        """Return when nothing of the command's runs any more: its first program has ended, or is about to."""

    def _hand_over(
        self, channel: socket.socket, job: bytes, files: Sequence[Path] = (), *, stdin: bool
    ) -> None:
        """Send the job, and the files' contents after it; when nobody takes it, the end says so."""
        inputs = os.pipe() if stdin else (os.open(os.devnull, os.O_RDONLY), None)
        out, err = os.pipe(), os.pipe()
        self._input = CommandInput(inputs[1])
        self._streams = {out[0]: Stream.STDOUT, err[0]: Stream.STDERR}
        try:
            socket.send_fds(channel, [SIZE.pack(len(job))], [inputs[0], out[1], err[1]])
            channel.sendall(job)
            for path in files:
                with path.open("rb") as file:
                    channel.sendfile(file)
        except OSError as error:
            self._failure = error
        for descriptor in (inputs[0], out[1], err[1]):
            os.close(descriptor)

    def _follow(self, channel: socket.socket) -> None:
        """From here on, notice the end."""
        self._waiter = threading.Thread(target=self._await_end, args=(channel,), daemon=True)
        self._waiter.start()

    def _read(self) -> list[Output]:
        """What has arrived, with an empty chunk for a stream that ended; nothing after both did."""
        if not self._streams:
            return []
        ready = select.select([*self._streams], [], [])[0]
        chunks = []
        for descriptor in ready:
            chunk = Output(self._streams[descriptor], os.read(descriptor, CHUNK))
            chunks.append(chunk)
            if not chunk.data:
                os.close(descriptor)
                del self._streams[descriptor]
        return chunks

    def _close_streams(self) -> None:
        self._input.close()
        with self._reading:
            for descriptor in self._streams:
                os.close(descriptor)
            self._streams.clear()

    def _await_end(self, channel: socket.socket) -> None:
        with channel:
            try:
                said = channel.recv(STATUS.size, socket.MSG_WAITALL)
            except OSError:
                said = b""
        self._await_rest()
        reason = None if self._killed else self._lost()
        if len(said) == STATUS.size:
            status = STATUS.unpack(said)[0]
            killed_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
            self._outcome = 128 + killed_by if killed_by else os.WEXITSTATUS(status)
        elif not self._killed:
            self._outcome = SandboxLost(reason or f"the sandbox was ended from outside: {self._failure}")
        self._ended.set()
