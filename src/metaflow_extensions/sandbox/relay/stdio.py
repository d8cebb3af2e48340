"""The launcher's end of ``guest/stdio.py``: a command's stdout taken apart into channels and output."""

from __future__ import annotations

import contextlib
import io
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, cast

from ..errors import RelayError, SandboxError
from ..guest.stdio import ACK, ACK_AFTER, CHUNK, CLOSE, COUNT, DATA, ERR, HEAD, OPEN, OUT, WINDOW

Send = Callable[[int, int, bytes], None]


class Channel:
    """One connection of the guest, with as much of a socket's interface as the relay uses.

    What is written while nobody waits for the guest goes out with what follows, at the latest when somebody
    waits: answers to several requests in one frame are one frame, too. A small frame behind another one waits
    for TCP's acknowledgement of that, 40 ms where a provider's SDK leaves Nagle's algorithm on.
    """

    def __init__(self, number: int, send: Send, closed: Callable[[int], None]) -> None:
        self._number = number
        self._send = send
        self._closed = closed
        self._arrived: deque[bytes] = deque()
        self._held = 0  # bytes that the guest has sent and has no acknowledgement for
        self._taken = 0
        self._credit = WINDOW
        self._ended = False
        self._awaited = False
        self._outgoing = bytearray()
        self._changed = threading.Condition()
        self._sending = threading.Lock()

    def makefile(self, mode: str, size: int) -> BinaryIO:
        """A buffered reader (``rb``) or writer (``wb``)."""
        raw = _Raw(self)
        return cast(
            "BinaryIO", io.BufferedReader(raw, size) if mode == "rb" else io.BufferedWriter(raw, size)
        )

    def shutdown(self, _how: int) -> None:
        """End both directions here; whoever waits is woken."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def close(self) -> None:
        """End both directions here and there."""
        self.shutdown(0)
        self._closed(self._number)
        with contextlib.suppress(BrokenPipeError):
            self._flush()
            self._send(CLOSE, self._number, b"")

    def feed(self, data: bytes) -> None:
        """Take in what the guest has sent. Raises RelayError for more than the window."""
        with self._changed:
            self._held += len(data)
            if self._held > WINDOW:
                raise RelayError(f"more than {WINDOW} bytes at once in one channel of the relay")
            self._arrived.append(data)
            self._changed.notify_all()

    def allow(self, count: int) -> None:
        """The guest has taken in so many bytes."""
        with self._changed:
            self._credit = min(WINDOW, self._credit + count)
            self._changed.notify_all()

    def take(self, size: int) -> bytes:
        """At most so many bytes that have arrived, empty at the end."""
        with self._changed:
            self._awaited = not (self._arrived or self._ended)
        if self._awaited:
            with contextlib.suppress(BrokenPipeError):
                self._flush()
        with self._changed:
            self._changed.wait_for(lambda: self._arrived or self._ended)
            self._awaited = False
            if not self._arrived:
                return b""
            data = self._arrived.popleft()
            if len(data) > size:
                self._arrived.appendleft(data[size:])
                data = data[:size]
            self._taken += len(data)
            acknowledged = self._taken if self._taken >= ACK_AFTER else 0
            self._held -= acknowledged
            self._taken -= acknowledged
        if acknowledged:
            with contextlib.suppress(BrokenPipeError):
                self._send(ACK, self._number, COUNT.pack(acknowledged))
        return data

    def give(self, data: memoryview) -> int:
        """Send at most as much as fits; how much. Raises BrokenPipeError after the end."""
        if not self._credit:
            self._flush()
        with self._changed:
            self._changed.wait_for(lambda: self._credit or self._ended)
            if self._ended:
                raise BrokenPipeError("the relay's channel was closed")
            part = data[: min(self._credit, CHUNK)]
            self._credit -= len(part)
            self._outgoing += part
            due = self._awaited or len(self._outgoing) >= CHUNK
        if due:
            self._flush()
        return len(part)

    def _flush(self) -> None:
        with self._sending:
            with self._changed:
                data, self._outgoing = bytes(self._outgoing), bytearray()
            for at in range(0, len(data), CHUNK):
                self._send(DATA, self._number, data[at : at + CHUNK])


class _Raw(io.RawIOBase):
    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._channel.take(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def write(self, data: memoryview) -> int:  # type: ignore[override]
        return self._channel.give(memoryview(data))


class StdioRelay:
    """Serves the channels in one command's stdout.

    ``accept`` is given each channel, ``send`` writes to the command's standard input.
    """

    def __init__(self, accept: Callable[[Channel], None], send: Callable[[bytes], None]) -> None:
        self._accept = accept
        self._write = send
        self._writing = threading.Lock()
        self._channels: dict[int, Channel] = {}
        self._received = bytearray()

    def send_ahead(self, archives: Iterable[bytes]) -> None:
        """Send what the guest unpacks first, on a thread: the command may end without reading it."""

        def send() -> None:
            # Why it reads no more is for its exit code to say.
            with contextlib.suppress(SandboxError), self._writing:
                for archive in archives:
                    self._write(archive)

        threading.Thread(target=send, daemon=True).start()

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """(OUT or ERR, what the step wrote there). Raises RelayError for bytes that are no frames."""
        self._received += data
        start = 0
        while len(self._received) - start >= HEAD.size:
            kind, number, length = HEAD.unpack_from(self._received, start)
            if not OUT <= kind <= ACK or length > CHUNK:
                raise RelayError(
                    "what came over the sandbox's standard output is no frame of the relay: "
                    + repr(bytes(self._received[start : start + 80]))
                )
            if len(self._received) - start < HEAD.size + length:
                break
            payload = bytes(self._received[start + HEAD.size : start + HEAD.size + length])
            start += HEAD.size + length
            if kind in (OUT, ERR):
                yield kind, payload
            else:
                self._handle(kind, number, payload)
        del self._received[:start]

    def close(self) -> None:
        """Nothing more comes: end every channel."""
        for channel in list(self._channels.values()):
            channel.shutdown(0)

    def _handle(self, kind: int, number: int, payload: bytes) -> None:
        if kind == OPEN:
            if number in self._channels:
                raise RelayError(f"the relay's channel {number} is opened twice")
            self._channels[number] = opened = Channel(number, self._send, self._forget)
            self._accept(opened)
            return
        channel = self._channels.get(number)
        if channel is None:
            return  # closed from this side in the meantime
        if kind == DATA:
            channel.feed(payload)
        elif kind == ACK:
            if len(payload) != COUNT.size:
                raise RelayError("an acknowledgement without a number of bytes")
            channel.allow(COUNT.unpack(payload)[0])
        else:
            channel.shutdown(0)

    def _forget(self, number: int) -> None:
        self._channels.pop(number, None)

    def _send(self, kind: int, number: int, payload: bytes) -> None:
        try:
            with self._writing:
                self._write(HEAD.pack(kind, number, len(payload)) + payload)
        except SandboxError as error:
            raise BrokenPipeError(str(error)) from error
