"""The named pipes between a command and the launcher."""

from __future__ import annotations

import os
from pathlib import Path

from . import runner


class Pipes:
    """The launcher's ends; each other end is held too until the runner has opened it."""

    def __init__(self, directory: Path) -> None:
        self.readers: dict[str, int] = {}
        self._held: list[int] = []
        for name in (runner.ALIVE, runner.OUT, runner.ERR):
            self.readers[name] = os.open(directory / name, os.O_RDONLY | os.O_NONBLOCK)
            self._held.append(os.open(directory / name, os.O_WRONLY))
        self._held.append(os.open(directory / runner.IN, os.O_RDONLY | os.O_NONBLOCK))
        self.writer = os.open(directory / runner.IN, os.O_WRONLY)

    def release(self) -> None:
        """From here on an end of file is the command's."""
        while self._held:
            os.close(self._held.pop())

    def close(self) -> None:
        """Close what is open."""
        self.release()
        while self.readers:
            os.close(self.readers.popitem()[1])
        self.close_writer()

    def close_writer(self) -> None:
        """End the command's standard input."""
        if self.writer >= 0:
            os.close(self.writer)
            self.writer = -1
