"""One command in a nitrobox sandbox of its own, made and kept by a thread of its own."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from nitrobox import Sandbox, SandboxConfig

from ...errors import SandboxLost, StartFailed
from ..command_input import CommandInput
from ..interface import Output, Stream
from .loader import STATUS

CHUNK = 65536
KILLED = 137
WAIT = 30.0  # seconds for the loader to say that it is there


class NitroboxProcess:
    """A running command; nitrobox ends a sandbox with the thread that made it."""

    def __init__(
        self,
        config: SandboxConfig,
        name: str,
        entry: str,
        job: bytes,
        socket_path: Path,
        *,
        stdin: bool,
        started: Callable[[Sequence[int]], None],
        lost: Callable[[], str | None],
    ) -> None:
        self._lost = lost
        self._started = started
        self._made = threading.Event()
        self._pid = -1
        self._own: list[int] = []
        self._killed = False
        self._failure: Exception | None = None
        self._outcome: int | SandboxLost = KILLED
        self._ended = threading.Event()
        self._reading = threading.Lock()
        self._over, over = os.pipe()
        self._keeper = threading.Thread(target=self._keep, args=(config, name, entry, over), daemon=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(str(socket_path))
            listener.listen(1)
            self._keeper.start()
            try:
                self._made.wait()
                self._tell_started()  # takes as long as the loader's start
                self._channel = self._await_loader(listener)
                self._tell_started()  # the loader may have been forked before
            except BaseException:
                self._kill_first()
                self._keeper.join()
                os.close(self._over)
                raise
        socket_path.unlink()
        self._hand_over(job, stdin=stdin)
        self._waiter = threading.Thread(target=self._await_end, daemon=True)
        self._waiter.start()

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
        """Write to standard input; ``b""`` ends it. Raises SandboxLost when nobody reads it any more."""
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
        self._input.close()
        with self._reading:
            for descriptor in self._streams:
                os.close(descriptor)
            self._streams.clear()

    def _keep(self, config: SandboxConfig, name: str, entry: str, over: int) -> None:
        try:
            box = Sandbox(config, name=name)
            try:
                self._pid = int(Path(config.env_base_dir, name, ".pid").read_text())
                # nitrobox's own and the sandbox's first: it forks before anybody can limit it.
                self._own = list(descendants(self._pid))
                self._made.set()
                # Not nitrobox's descriptor 6, through which a command could say how it ended.
                box.run(f"python3 -I -S {entry} 6>&-")
            finally:
                box.delete()
                self._bury()
        except Exception as error:  # noqa: BLE001 -- nitrobox's own errors have no common class
            self._failure = error
        finally:
            os.close(over)
            self._made.set()

    def _tell_started(self) -> None:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended: the loader won't come
            self._started(list(descendants(self._pid)))

    def _await_loader(self, listener: socket.socket) -> socket.socket:
        ready = select.select([listener.fileno(), self._over], [], [], WAIT)[0]
        if listener.fileno() in ready:
            return listener.accept()[0]
        self._kill_first()
        self._keeper.join()
        raise StartFailed(
            f"nitrobox did not start the sandbox: {self._failure or 'python3 did not run in it'}; image= "
            "names a directory or a reference with a Python in it"
        ) from self._failure

    def _hand_over(self, job: bytes, *, stdin: bool) -> None:
        inputs = os.pipe() if stdin else (os.open(os.devnull, os.O_RDONLY), None)
        out, err = os.pipe(), os.pipe()
        try:
            socket.send_fds(self._channel, [job[:1]], [inputs[0], out[1], err[1]])
            self._channel.sendall(job[1:])
        except OSError as error:
            self._failure = error  # it is gone: the end says so
        for descriptor in (inputs[0], out[1], err[1]):
            os.close(descriptor)
        self._input = CommandInput(inputs[1])
        self._streams = {out[0]: Stream.STDOUT, err[0]: Stream.STDERR}

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

    def _await_end(self) -> None:
        with self._channel as channel:
            try:
                said = channel.recv(STATUS.size, socket.MSG_WAITALL)
            except OSError:
                said = b""
        # The sandbox ends with its first program: then nothing of the command's runs any more.
        self._keeper.join()
        os.close(self._over)
        reason = None if self._killed else self._lost()
        if len(said) == STATUS.size:
            status = STATUS.unpack(said)[0]
            killed_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
            self._outcome = 128 + killed_by if killed_by else os.WEXITSTATUS(status)
        elif not self._killed:
            self._outcome = SandboxLost(reason or f"the sandbox was ended from outside: {self._failure}")
        self._ended.set()

    def _bury(self) -> None:
        """Wait for the sandbox's first process: orphaned, it may have become a child of this one."""
        for pid in self._own:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)

    def _kill_first(self) -> None:
        if self._pid > 0:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)


def descendants(pid: int) -> Iterator[int]:
    """A process and all below it."""
    yield pid
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        yield from descendants(int(child))
