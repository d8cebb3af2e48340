"""A command in a sandbox, followed by asking its holder for what came since."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator

from ...errors import SandboxError, SandboxLost, UnsupportedOption
from ...guest.holder import CODE, ERR, EXIT, FRAME, KILL, OUT, POLL, TAKE
from ..interface import Output, Stream
from .feeder import Feeder
from .toolbox import Toolbox

MOST = 3 << 20  # bytes in one answer
AS_FILE = 128 * 1024  # bytes of input from which on an upload and a call are faster than the call alone
HELD = 4 << 20  # bytes that wait for a reader before no more are asked for
WAIT = 15.0  # seconds that a call waits for output, which also keeps the sandbox from being stopped
FULL = 2.0  # seconds between calls while a reader is awaited
KILLING = 15.0  # seconds for a kill to get through
KILLED = 137
STREAMS = {OUT: Stream.STDOUT, ERR: Stream.STDERR}


class DaytonaProcess:
    """A running command; ``output`` is for one reader, the other methods may be called from any thread.

    ``lost`` says why the sandbox is gone, if it is for another reason than this object's ``kill``.
    """

    def __init__(self, toolbox: Toolbox, name: str, *, stdin: bool, lost: Callable[[], str | None]) -> None:
        self._toolbox, self._name, self._lost = toolbox, name, lost
        self._changed = threading.Condition()
        self._chunks: deque[Output] = deque()
        self._held = 0
        self._rest = b""
        self._killed = False
        self._outcome: int | SandboxLost | None = None
        self._feeder = Feeder(self._feed, self._fail) if stdin else None
        threading.Thread(target=self._follow, name="daytona-output", daemon=True).start()

    def output(self) -> Iterator[Output]:
        """Chunks in order of arrival. Raises SandboxLost when the sandbox goes away under the command."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._chunks or self._outcome is not None)
                if not self._chunks:
                    break
                chunk = self._chunks.popleft()
                self._held -= len(chunk.data)
                self._changed.notify_all()
            yield chunk
        self.wait()

    def send(self, data: bytes) -> None:
        """Write to standard input; ``b""`` ends it. Raises SandboxLost when nobody reads it any more."""
        if self._feeder is None:
            raise UnsupportedOption("this command has no standard input: start it with Command(stdin=True)")
        self._feeder.send(data)

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
            self._changed.notify_all()
        try:
            self._toolbox.ask(self._name, KILL, 0, patience=KILLING)
        except SandboxError as error:
            self._fail(error)

    def lose(self, reason: str) -> None:
        """The sandbox is gone."""
        self._fail(SandboxLost(reason))

    def _follow(self) -> None:
        got = 0
        try:
            while self._outcome is None:
                room = self._await_room()
                at, data = self._toolbox.ask(
                    self._name, POLL, got, wait=WAIT if room else 0, most=MOST if room else 0
                )
                if at != got:
                    raise SandboxLost(f"output from byte {got} on was asked for, and {at} answered")
                got += len(data)
                self._take(data)
        except SandboxError as error:
            self._fail(error)

    def _await_room(self) -> bool:
        """Whether more may be asked for; without room, a call only shows that all is well, or over."""
        with self._changed:
            # What is left after a kill has to fit: nobody need read it for the end to be heard.
            return self._changed.wait_for(
                lambda: self._held < HELD or self._killed or self._outcome is not None, FULL
            )

    def _take(self, data: bytes) -> None:
        self._rest += data
        at, rest = 0, self._rest
        with self._changed:
            while len(rest) - at >= FRAME.size:
                kind, length = FRAME.unpack_from(rest, at)
                if len(rest) - at < FRAME.size + length:
                    break
                payload = rest[at + FRAME.size : at + FRAME.size + length]
                at += FRAME.size + length
                if kind == EXIT:
                    self._end(CODE.unpack(payload)[0])
                elif kind in STREAMS and payload:
                    self._chunks.append(Output(STREAMS[kind], payload))
                    self._held += length
                else:
                    raise SandboxLost("the sandbox sent what no holder of commands sends")
            self._changed.notify_all()
        self._rest = rest[at:]

    def _feed(self, what: int, offset: int, data: bytes, wait: float) -> int:
        if len(data) >= AS_FILE:
            self._toolbox.put_input(self._name, offset, data)
            wanted, _ = self._toolbox.ask(self._name, TAKE, offset, wait=wait)
        else:
            wanted, _ = self._toolbox.ask(self._name, what, offset, data, wait=wait)
        if not offset <= wanted <= offset + len(data):
            raise SandboxLost(f"input from byte {offset} on was sent, and {wanted} is wanted next")
        return wanted

    def _fail(self, error: SandboxError) -> None:
        reason = self._lost()
        lost = error if isinstance(error, SandboxLost) and not reason else SandboxLost(reason or str(error))
        with self._changed:
            self._end(KILLED if self._killed else lost)

    def _end(self, outcome: int | SandboxLost) -> None:
        """With the lock held; the first end counts."""
        if self._outcome is None:
            self._outcome = outcome
        self._changed.notify_all()
        if self._feeder:
            self._feeder.stop()
