"""The launcher's end of a command's standard input."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from ..errors import SandboxLost, UnsupportedOption


class CommandInput:
    """A pipe's or a socket's ``descriptor``, None for a command that was started without standard input.

    ``close`` is called once, never while something is written; None closes the descriptor.
    """

    def __init__(self, descriptor: int | None, close: Callable[[], None] | None = None) -> None:
        self._descriptor = descriptor
        self._close = close
        self._open = descriptor is not None
        self._writing = threading.Lock()

    def send(self, data: bytes) -> None:
        """Write everything; ``b""`` ends the input. Raises SandboxLost when nobody reads it any more."""
        if self._descriptor is None:
            raise UnsupportedOption("this command has no standard input: start it with Command(stdin=True)")
        if not data:
            self.close()
            return
        with self._writing:
            if not self._open:
                raise SandboxLost("the command's standard input has been closed: send before that")
            rest = memoryview(data)
            try:
                while rest:
                    rest = rest[os.write(self._descriptor, rest) :]
            except OSError as error:
                raise SandboxLost(
                    "the command reads its standard input no more: see its exit code"
                ) from error

    def close(self) -> None:
        """Let the command read the end of its input; idempotent."""
        with self._writing:
            if self._open:
                self._open = False
                if self._close:
                    self._close()
                elif self._descriptor is not None:
                    os.close(self._descriptor)
