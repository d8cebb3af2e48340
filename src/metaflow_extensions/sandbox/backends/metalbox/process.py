"""A command that runs as a service: its pipes, and its end as the server's events tell it."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator

from ...errors import SandboxLost, StartFailed
from ..command_input import CommandInput
from ..interface import Output, Stream
from . import runner
from .leftovers import end_below
from .pipes import Pipes
from .server import Server
from .service import Service

_CHUNK = 1 << 16
_KILLED = 128 + signal.SIGKILL
_PATIENCE = 60.0  # seconds for the runner to start, and for the server to say how it ended
_CODE = re.compile(r"code (-?\d+)\Z")


class MetalboxProcess:
    """A running command; ``output`` is for one reader, the other methods may be called from any thread.

    ``lost`` says why the sandbox is gone, if it is for another reason than this object's ``kill``.
    """

    def __init__(
        self, server: Server, service: Service, name: str, stdin: bool, lost: Callable[[], str | None]
    ) -> None:
        self._server, self._service, self._name = server, service, name
        self._lost = lost
        self._end = threading.Lock()
        # Held around each read and write, so that no descriptor is closed under one.
        self._reading = threading.Lock()
        self._killed = False
        self._outcome: int | Exception | None = None
        self._pipes = Pipes(service.io)
        self._input = CommandInput(self._pipes.writer if stdin else None, self._pipes.close_writer)

    def begin(self) -> None:
        """Start the service; returns when the command runs. Raises StartFailed, and then nothing runs."""
        try:
            self._server.start(self._name, self._service.entry())
            self._await_start()
        except BaseException as error:
            end_below(self._service.directory)
            self._pipes.close()
            if isinstance(error, SandboxLost):
                raise StartFailed(str(error)) from error
            raise
        self._pipes.release()
        self._service.clear()

    def output(self) -> Iterator[Output]:
        """Chunks of up to 64 KiB in order of arrival, until the command's tree is gone."""
        streams = {runner.OUT: Stream.STDOUT, runner.ERR: Stream.STDERR}
        while streams:
            alive = self._outcome is None
            self._await(*streams, alive=alive)
            if alive and self._ended():
                self._finish()
            for name, stream in list(streams.items()):
                data = self._read(name)
                if data:
                    yield Output(stream, data)
                elif data is not None:
                    del streams[name]
        if isinstance(self._finish(), SandboxLost):
            self.wait()

    def send(self, data: bytes) -> None:
        """Write to standard input; ``b""`` ends it. Raises SandboxLost when nobody reads it any more."""
        self._input.send(data)

    def wait(self) -> int:
        """The exit code, from the service's events. Raises SandboxLost."""
        outcome = self._finish()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def kill(self) -> None:
        """Kill the runner, the command and all that it started; idempotent."""
        with self._end:
            if self._outcome is None:
                self._killed = True
                end_below(self._service.directory)

    def lose(self) -> None:
        """End everything as something that the sandbox suffered: ``wait`` raises SandboxLost."""
        end_below(self._service.directory)

    def discard(self) -> None:
        """Kill, wait and close everything; for the sandbox's end."""
        self.kill()
        self._finish()
        self._input.close()
        with self._reading:
            self._pipes.close()

    def _finish(self) -> int | Exception:
        while self._outcome is None and not self._ended():
            self._await(alive=True)
        with self._end:
            if self._outcome is None:
                # What the command left behind ends with it.
                end_below(self._service.directory)
                self._outcome = self._read_outcome()
                if not self._server.gone():
                    self._server.forget(self._name)
            return self._outcome

    def _read_outcome(self) -> int | Exception:
        try:
            events = self._events()
        except SandboxLost as error:
            return SandboxLost(self._lost() or str(error)) if not self._killed else _KILLED
        code = int(_CODE.fullmatch(events["exited"])[1])  # type: ignore[index]  # _events saw to it
        if self._killed and code < 0:
            return _KILLED
        reason = self._lost()
        if reason:
            return SandboxLost(reason)
        if "oom-kill" in events:
            return _KILLED
        if "stopped" in events or code < 0:
            return SandboxLost("the command's service was ended from outside the sandbox: run the step again")
        return code

    def _events(self) -> dict[str, str]:
        """The last event of each type, once there is one of the end; the server may need a moment for it."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            told = self._server.state(self._name)
            events = {event["type"]: event["message"] for event in told["events"]}
            if _CODE.fullmatch(events.get("exited", "")):
                return events
            if time.monotonic() > deadline:
                raise SandboxLost("MetalBox's server does not say how the command ended: run the step again")
            time.sleep(0.005)

    def _await_start(self) -> None:
        deadline = time.monotonic() + _PATIENCE
        said = b""
        while not said:
            self._await(alive=True, seconds=0.2)
            with contextlib.suppress(BlockingIOError):
                said = os.read(self._pipes.readers[runner.ALIVE], _CHUNK)
            events = () if said else self._server.state(self._name)["events"]
            if any(event["type"] == "exited" for event in events) or time.monotonic() > deadline:
                said = runner.FAILED + self._server.log(self._name).encode()
        if said != runner.STARTED:
            raise StartFailed(f"the command could not be started: {said[1:].decode(errors='replace')}")

    def _ended(self) -> bool:
        """Whether the runner or the server is gone; nothing is left to be read of the runner otherwise."""
        with self._reading:
            if self._server.gone() or not self._pipes.readers:
                return True
            with contextlib.suppress(BlockingIOError):
                return not os.read(self._pipes.readers[runner.ALIVE], _CHUNK)
        return False

    def _read(self, name: str) -> bytes | None:
        """What has arrived; None while nothing has, nothing at the end."""
        with self._reading:
            if not self._pipes.readers:
                return b""
            with contextlib.suppress(BlockingIOError):
                return os.read(self._pipes.readers[name], _CHUNK)
        return None

    def _await(self, *names: str, alive: bool, seconds: float | None = None) -> None:
        """Wait until a pipe has something, or with ``alive`` until the runner or the server ends."""
        ready = select.poll()
        with contextlib.ExitStack() as copies:
            with self._reading:
                if not self._pipes.readers:
                    return
                watched = [self._pipes.readers[name] for name in (*names, *([runner.ALIVE] if alive else []))]
                for descriptor in (*watched, *([self._server.lifeline] if alive else [])):
                    # A copy, as others may close the pipe meanwhile.
                    copy = os.dup(descriptor)
                    copies.callback(os.close, copy)
                    ready.register(copy, select.POLLIN if descriptor in watched else select.POLLHUP)
            ready.poll(None if seconds is None else seconds * 1000)
