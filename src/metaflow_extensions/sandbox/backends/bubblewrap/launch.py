"""Start one bwrap, hold it until its limits are set, and say at once when it could not set up the sandbox."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import struct
import subprocess
import termios
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

from ...errors import StartFailed
from .profile import Attachments

_PAGE = 4096


@dataclass(frozen=True)
class Launched:
    """A bwrap whose command has been let go.

    ``process`` is bwrap itself outside the sandbox, ``first`` a pidfd of the sandbox's first
    process, whose end is the end of all others; ``status`` is where bwrap reports as JSON lines.
    """

    process: subprocess.Popen[bytes]
    pid: int
    first: int
    status: int


def launch(
    binary: Path,
    name: str,
    arguments: Callable[[Attachments], tuple[list[str], list[str]]],
    argv: Sequence[str],
    *,
    stdin: bool,
    spawner: Executor,
    before_setup: Callable[[int], None],
    before_command: Callable[[int], None],
) -> Launched:
    """Start a command; returns when the sandbox around it stands.

    ``name`` is what bwrap is called in lists of processes.
    ``arguments`` gives bwrap's own, those of the sandbox and those of the command apart.
    ``spawner`` runs what starts bwrap: bwrap dies with the thread that started it.
    ``before_setup`` is called with the pid of bwrap, ``before_command`` with that of the sandbox's
    first process. Raises StartFailed, and whatever these raise; then nothing is left running.
    """
    with contextlib.ExitStack() as stack:
        attachments = stack.enter_context(Attachments())
        ends = _Ends(stack)
        sandbox, command = arguments(attachments)
        # Secrets are in here: never on the command line, which other users can read.
        command_file = attachments.add(_packed(command))
        report, reported = ends.pipe()
        held, release = ends.pipe()
        profile, profile_end = ends.pipe()
        content = _packed([*sandbox, "--block-fd", str(held), "--json-status-fd", str(reported)])
        # Wide enough to be written at once: of half a profile, walls could be missing.
        if len(content) > fcntl.fcntl(profile_end, fcntl.F_GETPIPE_SZ):
            fcntl.fcntl(profile_end, fcntl.F_SETPIPE_SZ, len(content))
        process = spawner.submit(
            subprocess.Popen[bytes],
            [name, "--args", command_file, "--args", str(profile), "--", *argv],
            executable=str(binary),
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            # bwrap stays visible as /proc/1 inside: its environment must hold nothing.
            env={},
            cwd="/",
            umask=0o022,
            # The terminal's Ctrl-C is for the launcher, which ends its sandboxes in order.
            start_new_session=True,
            pass_fds=[*attachments.numbers, reported, held, profile],
        ).result()
        undo = stack.enter_context(contextlib.ExitStack())
        undo.callback(_abandon, process)
        ends.close(reported, held, profile)
        before_setup(process.pid)
        # A bwrap that ended already has its reasons, which the missing report brings up.
        with contextlib.suppress(BrokenPipeError):
            os.write(profile_end, content)
        ends.close(profile_end)
        pid = _first_pid(report)
        first = _pidfd(pid)
        if first is None:
            raise StartFailed(_setup_failure(process))
        undo.callback(_end, first)
        try:
            before_command(pid)
        except ProcessLookupError:
            raise StartFailed(_setup_failure(process)) from None
        if not _release(release):
            raise StartFailed(_setup_failure(process))
        undo.pop_all()
        ends.keep(report)
        return Launched(process, pid, first, report)


class _Ends:
    """Ends of pipes, each closed once."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._open: set[int] = set()
        stack.callback(lambda: self.close(*self._open))

    def pipe(self) -> tuple[int, int]:
        ends = os.pipe()
        self._open.update(ends)
        return ends

    def close(self, *ends: int) -> None:
        for end in ends:
            self._open.remove(end)
            os.close(end)

    def keep(self, end: int) -> None:
        self._open.remove(end)


def _packed(words: Sequence[str]) -> bytes:
    return b"".join(os.fsencode(word) + b"\0" for word in words)


def _first_pid(report: int) -> int:
    """The pid that bwrap reports in its first line; 0 when it ended without one."""
    line = b""
    while not line.endswith(b"\n"):
        chunk = os.read(report, _PAGE)
        if not chunk:
            return 0
        line += chunk
    return int(json.loads(line)["child-pid"])


def _pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid) if pid else None
    except ProcessLookupError:
        return None


def _end(process: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(process, signal.SIGKILL)
    os.close(process)


def _release(end: int) -> bool:
    """Let the command start; False when bwrap ended before it came to wait for that.

    A pipe of one page that holds a byte becomes writable only when the byte has been read.
    """
    fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, _PAGE)
    try:
        os.write(end, b"1")
    except BrokenPipeError:
        return False
    waiting = select.poll()
    waiting.register(end, select.POLLOUT)
    waiting.poll()
    unread = fcntl.ioctl(end, termios.FIONREAD, struct.pack("i", 0))
    return unread == struct.pack("i", 0)


def _setup_failure(process: subprocess.Popen[bytes]) -> str:
    said = process.communicate()[1].decode(errors="replace").strip()
    return f"bwrap could not set up the sandbox: {said or f'it ended with status {process.returncode}'}"


def _abandon(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()
