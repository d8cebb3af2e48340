"""One running command: its events on the loop of this process, for whoever reads and waits in threads."""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import contextlib
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from microsandbox import ExecEventType, MicrosandboxError

from ...errors import SandboxLost, UnsupportedOption
from ..async_calls import AsyncCalls
from ..interface import Output, Stream

PIECE = 1 << 20  # bytes sent at once; a frame has at most 4 MiB
HELD = 8 << 20  # bytes of output that nobody has read yet
KILLED = 137
TERMINATE = 15
GRACE = 10.0  # seconds for the loader to end everything
STREAMS = {ExecEventType.STDOUT: Stream.STDOUT, ExecEventType.STDERR: Stream.STDERR}


class MicrosandboxProcess:
    """Made on the loop, once the command has started; ``lost`` says why a sandbox went away."""

    def __init__(
        self, calls: AsyncCalls, handle: Any, sink: Any, *, stdin: bool, lost: Callable[[], Awaitable[str]]
    ) -> None:
        self._calls, self._handle, self._sink = calls, handle, sink
        self._lost = lost
        self._stdin = stdin
        self._input_open = stdin
        self._sending = threading.Lock()
        self._chunks: collections.deque[Output] = collections.deque()
        self._held = 0
        self._changed = threading.Condition()
        self._room = asyncio.Event()
        self._killed = False
        self._reason: str | None = None
        self._ended: concurrent.futures.Future[int] = concurrent.futures.Future()
        self._reader = asyncio.get_running_loop().create_task(self._read())

    def output(self) -> Iterator[Output]:
        """Chunks as they come. Raises SandboxLost when the machine goes away."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._chunks or self._ended.done())
                if not self._chunks:
                    break
                chunk = self._chunks.popleft()
                full, self._held = self._held >= HELD, self._held - len(chunk.data)
            if full:
                self._calls.soon(self._room.set)
            yield chunk
        self._ended.result()

    def send(self, data: bytes) -> None:
        """Write to standard input; ``b""`` ends it. Raises SandboxLost when nobody reads it any more."""
        if not self._stdin:
            raise UnsupportedOption("this command has no standard input: start it with Command(stdin=True)")
        with self._sending:
            if not self._input_open:
                if data:
                    raise SandboxLost("the command's standard input has been closed: send before that")
                return
            if not data:
                self._input_open = False
                self._write(self._sink.close)
            view = memoryview(data)
            for at in range(0, len(data), PIECE):
                piece = bytes(view[at : at + PIECE])
                self._write(lambda piece=piece: self._sink.write(piece))  # type: ignore[misc]

    def wait(self) -> int:
        """The exit code. Raises SandboxLost."""
        return self._ended.result()

    def kill(self) -> None:
        """End the command and all that it started; idempotent."""
        if self._ended.done():
            return
        self._abandon()
        self._calls.start(self._end)
        with contextlib.suppress(SandboxLost):
            self._ended.result()

    def lose(self, reason: str) -> None:
        """The sandbox goes: whoever reads, waits or sends is told so."""
        self._reason = self._reason or reason
        self._calls.soon(self._reader.cancel)
        concurrent.futures.wait([self._ended])

    def _abandon(self) -> None:
        """From here on, output for which there is no room is dropped: it must not keep the end back."""
        self._killed = True
        self._calls.soon(self._room.set)

    async def _end(self) -> None:
        """Ask the loader, which reaches more than the agent; then the agent, then give up."""
        for ask in (lambda: self._handle.signal(TERMINATE), self._handle.kill):
            with contextlib.suppress(MicrosandboxError, asyncio.TimeoutError):
                await asyncio.wait_for(ask(), GRACE)
                await asyncio.wait_for(asyncio.shield(self._reader), GRACE)
            if self._ended.done():
                return
        self._reader.cancel()

    def _write(self, action: Callable[[], Awaitable[Any]]) -> None:
        if self._ended.done():
            raise SandboxLost("the command reads its standard input no more: see its exit code")
        writing: concurrent.futures.Future[Any] = self._calls.start(action)
        # Who sends to a command that reads nothing has to hear of its end.
        either: list[concurrent.futures.Future[Any]] = [writing, self._ended]
        concurrent.futures.wait(either, return_when=concurrent.futures.FIRST_COMPLETED)
        if not writing.done():
            writing.cancel()
            raise SandboxLost("the command reads its standard input no more: see its exit code")
        try:
            writing.result()
        except MicrosandboxError as error:
            raise SandboxLost(f"the command's standard input is gone: {error}") from error

    async def _read(self) -> None:
        outcome: int | SandboxLost = KILLED
        try:
            outcome = await self._events()
        except (MicrosandboxError, asyncio.CancelledError) as error:
            outcome = SandboxLost(self._reason or f"the connection to the sandbox broke: {error}")
        if isinstance(outcome, SandboxLost) and self._killed:
            outcome = KILLED
        with self._changed:
            if isinstance(outcome, SandboxLost):
                self._ended.set_exception(outcome)
            else:
                self._ended.set_result(outcome)
            self._changed.notify_all()

    async def _events(self) -> int | SandboxLost:
        async for event in self._handle:
            if event.event_type in STREAMS and event.data:
                await self._hold(Output(STREAMS[event.event_type], bytes(event.data)))
            elif event.event_type == ExecEventType.EXITED:
                # A signal that ended the loader itself, before it took care of signals or by a kill.
                by_signal = event.code < 0 or (self._killed and event.code == 128 + TERMINATE)
                return KILLED if by_signal else int(event.code)
        return SandboxLost(await self._lost())

    async def _hold(self, chunk: Output) -> None:
        while self._held >= HELD and not self._killed:
            self._room.clear()
            await self._room.wait()
        if self._held >= HELD:
            return
        with self._changed:
            self._chunks.append(chunk)
            self._held += len(chunk.data)
            self._changed.notify_all()
