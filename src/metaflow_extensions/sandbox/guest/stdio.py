"""The relay's channels and the step's output, carried over this process's own stdin and stdout.

For sandboxes that share no directory with the launcher. A frame is KIND, CHANNEL, LENGTH and so
many bytes. Inside, the relay is a unix socket as elsewhere; every connection to it is a channel. At
most WINDOW bytes of a channel are under way in each direction: neither side ever has to wait for one
channel before it can read the others.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import time
from typing import Dict, List, Tuple

HEAD = struct.Struct("!BII")
OUT, ERR, OPEN, DATA, CLOSE, ACK = range(1, 7)
COUNT = struct.Struct("!I")  # what an ACK carries: bytes taken in
WINDOW = 2 << 20  # bytes: a round trip to a cloud takes tens of milliseconds
# Bytes taken in, of which the other side hears at once: a small frame before each answer waits for TCP's own
# acknowledgement, 40 ms where the provider's SDK leaves Nagle's algorithm on.
ACK_AFTER = WINDOW // 4
CHUNK = 64 * 1024  # bytes, the longest frame
LAST_WORDS = 5.0  # seconds for what is on its way when the step has ended


class Channel:
    """One connection to the relay's socket."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.pending = bytearray()
        self.credit = WINDOW
        self.taken = 0  # bytes passed on that the launcher has not heard of
        self.closing = False  # the launcher has closed it: what is pending is still passed on

    def events(self) -> int:
        """What to wait for."""
        readable = select.POLLIN if self.credit and not self.closing else 0
        return readable | (select.POLLOUT if self.pending else 0)


class Multiplexer:
    """Passes bytes on, in one thread, until the step has ended."""

    def __init__(self, listener: socket.socket, outputs: Dict[int, int], waker: int) -> None:
        self._listener = listener
        self._outputs = outputs
        self._waker = waker
        self._channels: Dict[int, Channel] = {}
        self._numbers: Dict[int, int] = {}
        self._next = 1
        self._incoming = bytearray()
        self._connected = True

    def run(self, pid: int) -> int:
        """Carry on until the process ends; its exit code, 128 + n when a signal ended it."""
        while True:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                break
            if not self._connected:
                os.kill(pid, signal.SIGKILL)  # nobody is there to take what it would save
            self._pass_on(None)
        deadline = time.monotonic() + LAST_WORDS
        while self._pass_on(0) and time.monotonic() < deadline:
            pass
        return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)

    def _pass_on(self, timeout: int | None) -> bool:
        """Wait for something to do, and do it; False when there was nothing."""
        poll = select.poll()
        for descriptor in (self._waker, self._listener.fileno(), *self._outputs):
            poll.register(descriptor, select.POLLIN)
        if self._connected:
            poll.register(0, select.POLLIN)
        for number, channel in self._channels.items():
            if channel.events():
                poll.register(channel.connection.fileno(), channel.events())
                self._numbers[channel.connection.fileno()] = number
        ready = poll.poll(timeout)
        for descriptor, happened in ready:
            self._handle(descriptor, happened)
        return bool(ready)

    def _handle(self, descriptor: int, happened: int) -> None:
        if descriptor == self._waker:
            os.read(descriptor, 4096)
        elif descriptor == self._listener.fileno():
            self._open(self._listener.accept()[0])
        elif descriptor == 0:
            self._receive()
        elif descriptor in self._outputs:
            data = os.read(descriptor, CHUNK)
            if data:
                write_frame(self._outputs[descriptor], 0, data)
            else:
                del self._outputs[descriptor]
        else:
            self._serve(self._numbers[descriptor], happened)

    def _open(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._channels[self._next] = Channel(connection)
        write_frame(OPEN, self._next)
        self._next += 1

    def _serve(self, number: int, happened: int) -> None:
        channel = self._channels.get(number)
        if channel is None:
            return
        try:
            if channel.pending:
                sent = channel.connection.send(channel.pending)
                del channel.pending[:sent]
                channel.taken += sent
                if channel.taken >= ACK_AFTER:
                    write_frame(ACK, number, COUNT.pack(channel.taken))
                    channel.taken = 0
            if happened & (select.POLLIN | select.POLLHUP) and channel.credit and not channel.closing:
                data = channel.connection.recv(min(CHUNK, channel.credit))
                if not data:
                    raise ConnectionResetError
                channel.credit -= len(data)
                write_frame(DATA, number, data)
        except BlockingIOError:
            return
        except ConnectionError:
            self._drop(number)
            write_frame(CLOSE, number)
            return
        if channel.closing and not channel.pending:
            self._drop(number)

    def _drop(self, number: int) -> None:
        self._channels.pop(number).connection.close()

    def _receive(self) -> None:
        data = os.read(0, CHUNK)
        self._connected = bool(data)  # the launcher's end is the task's
        self._incoming += data
        while len(self._incoming) >= HEAD.size:
            kind, number, length = HEAD.unpack_from(self._incoming)
            if len(self._incoming) < HEAD.size + length:
                return
            payload = bytes(self._incoming[HEAD.size : HEAD.size + length])
            del self._incoming[: HEAD.size + length]
            channel = self._channels.get(number)
            if channel is None:
                continue  # closed from this side in the meantime
            if kind == DATA:
                channel.pending += payload
            elif kind == ACK:
                channel.credit += COUNT.unpack(payload)[0]
            elif channel.pending:
                channel.closing = True
            else:
                self._drop(number)


def write_frame(kind: int, channel: int, payload: bytes = b"") -> None:
    """One frame to the launcher, whole."""
    view = memoryview(HEAD.pack(kind, channel, len(payload)) + payload)
    while view:
        view = view[os.write(1, view) :]


def main(arguments: List[str], address: str) -> int:
    """Run the guest with ``arguments`` in a child, its relay a unix socket at the path ``address``."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(address)
    listener.listen(64)
    listener.setblocking(False)
    outputs = [(kind, os.pipe()) for kind in (OUT, ERR)]
    pid = os.fork()
    if pid == 0:
        os._exit(child(arguments, listener, outputs))
    for _, (_, writer) in outputs:
        os.close(writer)
    waker, wakened = os.pipe()
    os.set_blocking(wakened, False)
    signal.set_wakeup_fd(wakened)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    return Multiplexer(listener, {reader: kind for kind, (reader, _) in outputs}, waker).run(pid)


def child(arguments: List[str], listener: socket.socket, outputs: List[Tuple[int, Tuple[int, int]]]) -> int:
    """What the first process is elsewhere, with pipes of its own."""
    from . import run

    listener.close()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for kind, (reader, writer) in outputs:
        os.close(reader)
        os.dup2(writer, kind)
        os.close(writer)
    return run.main(arguments)
