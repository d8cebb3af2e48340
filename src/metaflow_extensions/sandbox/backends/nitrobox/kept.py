"""The launcher's side of the keeper: one process for all sandboxes of a launcher."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import subprocess
import threading
from collections.abc import Mapping
from typing import Any

from ...errors import StartFailed
from ..same_python import same_python

KEEPER = f"{__package__}.keeper"


class Kept:
    """A sandbox that was asked for: ``pid`` is nitrobox's own process once it is made, -1 before."""

    def __init__(self) -> None:
        self.pid = -1
        self.failure: str | None = None
        self.made, self.ended = threading.Event(), threading.Event()
        # Readable once it ended, for whoever waits for something else as well.
        self.over, self._ending = os.pipe()

    def end(self, failure: str | None) -> None:
        """It ended, by itself or because it could not be made."""
        self.failure = failure
        os.close(self._ending)
        self.ended.set()
        self.made.set()


class Keeper:
    """The process that makes sandboxes, started when it is first needed."""

    def __init__(self) -> None:
        self._changing = threading.Lock()
        self._kept: dict[str, Kept] = {}
        self._process: subprocess.Popen[bytes] | None = None

    def keep(self, config: Mapping[str, Any], name: str, command: str) -> Kept:
        """Have a sandbox made that runs a shell command. Raises StartFailed when the keeper is gone."""
        request = {"config": dict(config), "name": name, "command": command}
        with self._changing:
            process = self._running()
            kept = self._kept[name] = Kept()
            try:
                os.write(process.stdin.fileno(), json.dumps(request).encode() + b"\n")  # type: ignore[union-attr]
            except BrokenPipeError as error:
                self._kept.pop(name).end(None)
                os.close(kept.over)
                raise StartFailed("the process that makes nitrobox sandboxes was ended: try again") from error
        return kept

    def start(self) -> None:
        """Start the process, whose imports take a while."""
        with self._changing:
            self._running()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                same_python(KEEPER),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd="/",
                # What interrupts the launcher's whole group must not reach it.
                start_new_session=True,
            )
            threading.Thread(target=self._listen, args=(self._process,), daemon=True).start()
        return self._process

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        for line in process.stdout or ():
            answer = json.loads(line)
            if "made" in answer:
                self._kept[answer["name"]].pid = answer["made"]
                self._kept[answer["name"]].made.set()
            else:
                self._kept.pop(answer["name"]).end(answer["ended"])
        process.wait()
        with self._changing, contextlib.suppress(KeyError):
            while True:
                self._kept.popitem()[1].end("the process that makes nitrobox sandboxes was ended")


@functools.cache
def _keeper(_pid: int) -> Keeper:
    return Keeper()


def keeper() -> Keeper:
    """The keeper of this process; after a fork the parent's is not it."""
    return _keeper(os.getpid())
