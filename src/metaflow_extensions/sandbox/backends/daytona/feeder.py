"""A command's standard input on its way: what is sent meanwhile goes along with the next call."""

from __future__ import annotations

import threading
from collections.abc import Callable

from ...errors import SandboxError, SandboxLost
from ...guest.holder import END, SEND

BATCH = 4 << 20  # bytes in one call
HELD = 2 * BATCH  # bytes that wait here before a sender has to
GATHER = 0.0005  # seconds for more to come along with a little: a call takes longer
LITTLE = 64 * 1024  # bytes
WAIT = 10.0  # seconds for the command to take something

Ask = Callable[[int, int, bytes, float], int]


class Feeder:
    """``ask`` passes on a request of so many seconds, and returns the offset of the input wanted next."""

    def __init__(self, ask: Ask, failed: Callable[[SandboxError], None]) -> None:
        self._ask = ask
        self._failed = failed
        self._changed = threading.Condition()
        self._held = bytearray()
        self._sent = 0
        self._ended = self._stopped = False
        self._thread: threading.Thread | None = None

    def send(self, data: bytes) -> None:
        """Take over all of it; ``b""`` is the end. Raises SandboxLost when nobody reads any more."""
        with self._changed:
            if self._ended and data:
                raise SandboxLost("the command's standard input has been closed: send before that")
            self._ended = self._ended or not data
            for at in range(0, len(data), BATCH):
                self._changed.wait_for(lambda: len(self._held) < HELD or self._stopped)
                if self._stopped:
                    raise SandboxLost("the command reads its standard input no more: see its exit code")
                self._held += data[at : at + BATCH]
                self._start()
            self._start()

    def stop(self) -> None:
        """The command has ended; who sends is woken."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="daytona-input", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _run(self) -> None:
        try:
            while self._pass_on():
                pass
        except SandboxError as error:
            self._failed(error)

    def _pass_on(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._held or self._ended or self._stopped)
            self._changed.wait_for(lambda: len(self._held) >= LITTLE or self._ended or self._stopped, GATHER)
            if self._stopped:
                return False
            part = bytes(self._held[:BATCH])
        wanted = self._ask(SEND if part else END, self._sent, part, WAIT)
        with self._changed:
            del self._held[: wanted - self._sent]
            self._sent = wanted
            self._changed.notify_all()
        return bool(part)
