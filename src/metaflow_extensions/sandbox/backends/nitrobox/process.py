"""One command in a nitrobox sandbox of its own."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import StartFailed
from ..inner_process import InnerProcess
from ..local_processes import children
from .images import complaint
from .kept import keeper

WAIT = 30.0  # seconds for the loader to say that it is there
PULL = 3.0  # seconds; what takes longer to make is being pulled
MAKE = 60.0  # seconds to make one of a directory, where there is nothing to pull


class NitroboxProcess(InnerProcess):
    """A running command; ``started`` hears of the processes around it."""

    def __init__(
        self,
        config: Mapping[str, Any],
        name: str,
        entry: str,
        job: bytes,
        socket_path: Path,
        *,
        stdin: bool,
        started: Callable[[Sequence[int]], None],
        lost: Callable[[], str | None],
        tell: Callable[[str], None],
    ) -> None:
        super().__init__(lost)
        self._image = config["image"]
        self._started = started
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(str(socket_path))
            listener.listen(1)
            self._kept = keeper().keep(config, name, f"python3 -I -S {entry}")
            try:
                self._await_made(tell)
                self._tell_started()  # takes as long as the loader's start
                channel = self._await_loader(listener)
                self._tell_started()  # the loader may have been forked before
            except BaseException:
                if self._kept.made.is_set():
                    self._kill_first()
                    self._await_rest()
                raise
        socket_path.unlink()
        self._hand_over(channel, job, stdin=stdin)
        self._follow(channel)

    def _await_made(self, tell: Callable[[str], None]) -> None:
        if self._kept.made.wait(PULL):
            return
        if not self._image.startswith("/"):
            tell(f"pulling the image {self._image}")
            self._kept.made.wait()
        elif not self._kept.made.wait(MAKE):
            raise StartFailed(f"nitrobox has not made a sandbox of {self._image} within {MAKE:g} s: it hangs")

    def _tell_started(self) -> None:
        if not self._kept.ended.is_set():
            self._started(list(descendants(self._kept.pid)))

    def _await_loader(self, listener: socket.socket) -> socket.socket:
        ready = select.select([listener.fileno(), self._kept.over], [], [], WAIT)[0]
        if listener.fileno() in ready:
            return listener.accept()[0]
        raise complaint(self._image, self._kept.failure)

    def _await_rest(self) -> None:
        # The sandbox ends with its first program: then nothing of the command's runs any more.
        self._kept.ended.wait()
        os.close(self._kept.over)
        self._failure = self._kept.failure

    def _kill_first(self) -> None:
        if self._kept.pid > 0:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._kept.pid, signal.SIGKILL)


def descendants(pid: int) -> Iterator[int]:
    """A process and all below it."""
    yield pid
    for child in children(pid):
        yield from descendants(child)
