"""A container's main process: its streams over one attached connection, and how it ends."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator

import docker
import requests
from docker.errors import APIError

from ...errors import SandboxLost
from ..command_input import CommandInput
from ..interface import Output, Stream

HEAD = struct.Struct(
    "!BxxxI"
)  # of a chunk: the stream, its length; Docker Engine API, "Attach to a container"
STREAMS = {1: Stream.STDOUT, 2: Stream.STDERR}
CHUNK = 64 * 1024
KILLED = 137
DRAIN = 2.0  # seconds for the last output of a container that has ended


class ContainerProcess:
    """One started container.

    ``lost`` says why the sandbox is gone, if it is; ``end_here`` ends the container's processes without
    the engine.
    """

    def __init__(
        self,
        client: docker.APIClient,
        container: str,
        attached: socket.socket,
        *,
        stdin: bool,
        lost: Callable[[], str | None],
        end_here: Callable[[], None],
    ) -> None:
        self.container = container
        self._client = client
        self._socket = attached
        self._input = CommandInput(attached.fileno() if stdin else None, close=self._end_input)
        self._lost = lost
        self._end_here = end_here
        self._killed = self._abandoned = False
        self._kill_sent = threading.Event()
        self._received = bytearray()
        self._drained = False
        self._reading = threading.Lock()
        self._ended = threading.Event()
        self._outcome: int | SandboxLost = KILLED
        self._waiter = threading.Thread(target=self._await_end, daemon=True)
        self._waiter.start()

    def output(self) -> Iterator[Output]:
        """Chunks as they come. Raises SandboxLost when the container or its engine goes away."""
        while True:
            with self._reading:
                chunks = self._next()
            if chunks is None:
                break
            yield from chunks
        self._ended.wait()
        if isinstance(self._outcome, SandboxLost):
            raise self._outcome

    def send(self, data: bytes) -> None:
        """Write to standard input; ``b""`` ends it. Raises SandboxLost when nobody reads it any more."""
        self._input.send(data)

    def _end_input(self) -> None:
        with contextlib.suppress(OSError):  # the container has ended
            self._socket.shutdown(socket.SHUT_WR)

    def wait(self) -> int:
        """The exit code. Raises SandboxLost."""
        self._ended.wait()
        if isinstance(self._outcome, SandboxLost):
            raise self._outcome
        return self._outcome

    def kill(self) -> None:
        """Kill everything in the container; idempotent."""
        if self._ended.is_set():
            return
        self._killed = True
        self.disconnect()
        try:
            self._client.kill(self.container, "SIGKILL")
        except APIError:
            pass  # it has ended by itself, or was removed: who waits for it hears so
        except requests.exceptions.RequestException:
            self._end_here()
        finally:
            self._kill_sent.set()
        self._ended.wait()

    def disconnect(self) -> None:
        """Take no more output than has arrived: an engine whose output nobody reads can't end a container."""
        with contextlib.suppress(OSError):  # the other side may have closed it
            self._socket.shutdown(socket.SHUT_RDWR)

    def abandon(self) -> None:
        """The container is about to be removed: engines show exit code 0 of some that end that way."""
        self._abandoned = not self._ended.is_set()
        self.disconnect()

    def discard(self) -> None:
        """Forget the connection of a container that has been removed; who reads or sends is woken."""
        self.disconnect()
        self._waiter.join()
        self._input.close()
        with self._reading:
            self._drained = True
            self._socket.close()

    def _next(self) -> list[Output] | None:
        """What has arrived; None at the end."""
        while not self._drained:
            # Where the engine keeps the connection of a container that has ended.
            if self._ended.is_set() and not select.select([self._socket], [], [], DRAIN)[0]:
                break
            try:
                data = self._socket.recv(CHUNK)
            except OSError:
                break
            if not data:
                break
            self._received += data
            chunks = list(self._chunks())
            if chunks:
                return chunks
        self._drained = True
        return None

    def _chunks(self) -> Iterator[Output]:
        start = 0
        while len(self._received) - start >= HEAD.size:
            stream, length = HEAD.unpack_from(self._received, start)
            end = start + HEAD.size + length
            if len(self._received) < end:
                break
            data = bytes(self._received[start + HEAD.size : end])
            start = end
            if data and stream in STREAMS:
                yield Output(STREAMS[stream], data)
        del self._received[:start]

    def _exit_code(self) -> int:
        """Once it has ended, which the engine shows by closing the connection: Podman's wait only polls."""
        closing = select.poll()
        closing.register(self._socket, select.POLLRDHUP)
        closing.poll()
        if self._killed:
            self._kill_sent.wait()
        state = self._client.inspect_container(self.container)["State"]
        if not state["Running"]:
            return int(state["ExitCode"])
        # The command has closed its streams. No time-out: it may take as long as it likes.
        return int(self._client.wait(self.container, timeout=None)["StatusCode"])

    def _await_end(self) -> None:
        try:
            self._outcome = self._exit_code()
        except (APIError, requests.exceptions.RequestException, ValueError, KeyError) as error:
            self._end_here()
            self._outcome = SandboxLost(
                self._lost() or f"the engine lost the container {self.container[:12]}: {error}"
            )
        else:
            reason = self._lost()
            if reason and not self._killed:
                self._outcome = SandboxLost(reason)
        if self._abandoned or (self._killed and isinstance(self._outcome, SandboxLost)):
            self._outcome = KILLED
        self._ended.set()
