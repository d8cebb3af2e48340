"""A process that outlives a killed launcher for as long as it takes to end the launcher's sandboxes.

What a daemon runs does not die with the launcher, and what bwrap starts while it sets up a sandbox
does not yet. The warden holds one end of a pipe, hears of every sandbox that is opened and closed,
and at the end of the pipe ends those that are still open.
"""

from __future__ import annotations

import functools
import importlib
import os
import subprocess
import threading

from .same_python import same_python

# A shell waits, since most wardens are ended before they have anything to do; Python is started for the rest.
_WAIT = 'heard=; while read -r line; do heard="$heard $line"; done; exec "$@" $heard'


class Warden:
    """The warden of this process for one kind of sandbox: there is one while any of them is open.

    ``end`` names a function as ``module:function``, called with ``arguments`` and the ids of what was left.
    """

    def __init__(self, end: str, *arguments: str) -> None:
        self._words = [end, str(len(arguments)), *arguments]
        self._changing = threading.Lock()
        self._open: set[str] = set()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def watch(self, sandbox_id: str) -> None:
        """Destroy that sandbox when this process goes without having closed it."""
        with self._changing:
            if self._owner != os.getpid():
                # After a fork the warden is the parent's, and so is what it watches.
                self._open, self._process, self._owner = set(), None, os.getpid()
            self._open.add(sandbox_id)
            try:
                self._tell(f"+{sandbox_id}\n")
            except BrokenPipeError:
                self._start()

    def forget(self, sandbox_id: str) -> None:
        """The sandbox has been closed; the last one takes the warden along."""
        with self._changing:
            if self._process is None or sandbox_id not in self._open:
                return
            self._open.remove(sandbox_id)
            if not self._open:
                self._process.kill()
                self._process.communicate()
                self._process = None
                return
            try:
                self._tell(f"-{sandbox_id}\n")
            except BrokenPipeError:
                self._start()

    def _tell(self, line: str) -> None:
        if self._process is None or self._process.stdin is None:
            raise BrokenPipeError
        self._process.stdin.write(line.encode())

    def _start(self) -> None:
        if self._process is not None:
            self._process.communicate()
        self._process = subprocess.Popen(
            [
                "/bin/sh",
                "-c",
                _WAIT,
                "sh",
                *same_python(__name__, *self._words),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            cwd="/",
            # What kills the launcher's whole group must not reach it.
            start_new_session=True,
        )
        self._tell("".join(f"+{sandbox_id}\n" for sandbox_id in sorted(self._open)))


@functools.cache
def warden(end: str, *arguments: str) -> Warden:
    """The warden of this process that calls ``end`` with those arguments."""
    return Warden(end, *arguments)


def main(end: str, count: str, *words: str) -> None:
    """End what was opened (+id) and not closed (-id) by a launcher that is gone."""
    arguments, heard = words[: int(count)], words[int(count) :]
    left: set[str] = set()
    for word in heard:
        (left.add if word[0] == "+" else left.discard)(word[1:])
    module, _, function = end.partition(":")
    getattr(importlib.import_module(module), function)(*arguments, *sorted(left))
