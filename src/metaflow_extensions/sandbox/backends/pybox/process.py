"""One command in a container of its own: a foreground ``pybox run``, its standard input a socket of ours."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..inner_process import CHUNK, InnerProcess
from ..local_processes import children, wait_until_gone
from .program import complaint

GO = b"go\n"
_SENDER = struct.Struct("3i")  # pid, uid and gid, as linux/socket.h has them
_SCM_CREDENTIALS = 2


class PyboxProcess(InnerProcess):
    """A running command; ``started`` hears of the processes around it, and of its own first one."""

    def __init__(
        self,
        image: str,
        words: Sequence[str],
        env: Mapping[str, str],
        log: Path,
        job: Mapping[str, Any],
        files: Sequence[Path],
        *,
        stdin: bool,
        started: Callable[[Sequence[int], Sequence[int]], None],
        lost: Callable[[], str | None],
    ) -> None:
        super().__init__(lost)
        self._image, self._log = image, log
        channel, theirs = socket.socketpair()
        # Tells the loader's number out here, which only the kernel knows.
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        with theirs:
            self._run = start_apart(words, env, log, theirs.fileno())
        self._ending = threading.Lock()
        # Handles of pybox and of the container's first process: their numbers may be another's by now.
        self._pybox: int | None = None
        self._loader: int | None = None
        try:
            started([self._run.pid], [])
            channel.sendall(GO)
            loader = self._await_loader(channel)
            self._hold(*children(self._run.pid), loader)
            started([*children(self._run.pid), loader], [loader])
            self._hand_over(channel, json.dumps(job).encode(), files, stdin=stdin)
            self._await_view(channel)
        except BaseException:
            self._await_rest()
            self._close_streams()
            channel.close()
            raise
        self._follow(channel)

    def _await_loader(self, channel: socket.socket) -> int:
        """The loader's process id. Raises what pybox's complaint means."""
        with contextlib.suppress(ConnectionResetError):  # it went with something of ours unread
            ready, control, _, _ = channel.recvmsg(1, socket.CMSG_SPACE(_SENDER.size))
            for _, kind, data in control:
                if ready and kind == _SCM_CREDENTIALS:
                    loader: int = _SENDER.unpack(data)[0]
                    return loader
        raise complaint(self._image, self._log, self._run.wait())

    def _hold(self, *pids: int) -> None:
        """Keep handles of pybox and of the loader. Raises StartFailed when they are gone already."""
        try:
            pybox, loader = pids
            self._pybox, self._loader = os.pidfd_open(pybox), os.pidfd_open(loader)
        except (ValueError, ProcessLookupError) as error:
            raise complaint(self._image, self._log, self._run.wait()) from error

    def _await_view(self, channel: socket.socket) -> None:
        """Return when the command is about to start. Raises StartFailed."""
        said = b""
        with contextlib.suppress(ConnectionResetError):
            said = channel.recv(CHUNK)
        if said != b"+":
            with self._log.open("ab") as log:
                log.write(b"\nError: " + said[1:] if said else b"")
            raise complaint(self._image, self._log, None)

    def _kill_first(self) -> None:
        with self._ending:
            if self._pybox is None:
                self._run.kill()
            else:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self._pybox, signal.SIGKILL)

    def _await_rest(self) -> None:
        # pybox has nothing more to do, and what it would still do takes longer than a short command.
        self._kill_first()
        self._run.wait()
        with self._ending:
            if self._loader is not None:
                wait_until_gone(self._loader)
            for handle in (self._pybox, self._loader):
                if handle is not None:
                    os.close(handle)
            self._pybox = self._loader = None


def start_apart(
    words: Sequence[str], env: Mapping[str, str], log: Path, stdin: int
) -> subprocess.Popen[bytes]:
    """pybox, out of reach of what ends the launcher's group, in a directory without a .env to trip over."""
    with log.open("wb") as output:
        return subprocess.Popen(
            words, stdin=stdin, stdout=output, stderr=output, env=env, cwd="/", start_new_session=True
        )
