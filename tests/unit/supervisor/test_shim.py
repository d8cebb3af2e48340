"""The process that the scheduler sees as the task, run for real."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from metaflow_extensions.sandbox.supervisor import shim as shim_module
from metaflow_extensions.sandbox.supervisor.server import receive_request
from metaflow_extensions.sandbox.supervisor.shim import ENDED

from ..relay.parts import WAIT, short_directory

SHIM = shim_module.__file__


class Supervisor:
    """The other end of a shim's socket."""

    def __init__(self, place: Path) -> None:
        self.path = place / "control"
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.path))
        self.listener.listen()

    def start(self, key: str, *command: str) -> tuple[subprocess.Popen[bytes], socket.socket]:
        """(a shim, its connection)."""
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", SHIM, str(self.path), key, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        connection = self.listener.accept()[0]
        connection.settimeout(WAIT)
        return process, connection

    def answer(self, code: int, number: int = 0) -> int:
        """How a shim ends that is answered so."""
        process, connection = self.start("key", "command")
        for descriptor in receive_request(connection)[2:]:
            os.close(descriptor)
        connection.sendall(ENDED.pack(code, number))
        connection.close()
        out, err = process.communicate(timeout=WAIT)
        assert (out, err) == (b"", b"")
        return process.returncode


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    with short_directory() as place:
        made = Supervisor(place)
        yield made
        made.listener.close()


def test_the_request(supervisor: Supervisor) -> None:
    """Guards against a command, or output, that arrives changed."""
    command = ["python", "-u", "", "flow.py", "ü \n'", os.fsdecode(b"\xff"), "x" * 100_000]
    process, connection = supervisor.start("1/start/2/0", *command)
    key, argv, out, err = receive_request(connection)
    assert (key, argv) == ("1/start/2/0", command)
    os.write(out, b"to stdout\n")
    os.write(err, b"to stderr\n")
    os.close(out)
    os.close(err)
    connection.sendall(ENDED.pack(0, 0))
    assert process.communicate(timeout=WAIT) == (b"to stdout\n", b"to stderr\n")
    assert process.returncode == 0
    connection.close()


@pytest.mark.parametrize("code", [0, 1, 127, 202, 255])
def test_exit_codes(supervisor: Supervisor, code: int) -> None:
    """Guards against another exit code than the step's."""
    assert supervisor.answer(code) == code


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGSEGV])
def test_death_by_a_signal(supervisor: Supervisor, number: int) -> None:
    """Guards against a shim that exits where its step was killed."""
    assert supervisor.answer(128 + number, number) == -number


@pytest.mark.parametrize(
    "number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2]
)
def test_signals_are_passed_on(supervisor: Supervisor, number: int) -> None:
    """Guards against a shim that dies of a signal that its step was to get."""
    process, connection = supervisor.start("key")
    for descriptor in receive_request(connection)[2:]:
        os.close(descriptor)
    for _ in range(2):
        process.send_signal(number)
        assert connection.recv(1) == bytes([number])
    connection.sendall(ENDED.pack(3, 0))
    assert process.wait(WAIT) == 3
    connection.close()
    process.communicate()


@pytest.mark.parametrize("answer", [b"", b"\0"])
def test_a_supervisor_that_goes(supervisor: Supervisor, answer: bytes) -> None:
    """Guards against a task that waits for a supervisor that is gone, or that is silent about it."""
    process, connection = supervisor.start("key")
    for descriptor in receive_request(connection)[2:]:
        os.close(descriptor)
    supervisor.path.unlink()
    connection.sendall(answer)
    connection.close()
    out, err = process.communicate(timeout=WAIT)
    assert (process.returncode, out) == (1, b"")
    assert err == shim_module.GONE.encode()


def test_no_supervisor(supervisor: Supervisor) -> None:
    """Guards against a traceback where the supervisor was killed before the task began."""
    supervisor.path.unlink()
    done = subprocess.run(
        [sys.executable, "-I", "-S", SHIM, str(supervisor.path), "key", "x"], capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (1, shim_module.GONE.encode())


def test_what_is_no_request() -> None:
    """Guards against a supervisor that trips over what is no shim, or keeps its descriptors."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    for data, descriptors in (
        (b"", []),
        (b"\0\0\0\1x", []),
        (b"\0\0", [1, 2]),
        (b"\0\0\0\1x", [1]),
        (b"\xff\xff\xff\xff", [1, 2]),
        (b"\0\0\0\5abc", [1, 2]),
    ):
        ours, theirs = socket.socketpair()
        if data:
            socket.send_fds(theirs, [data], descriptors)
        theirs.close()
        with pytest.raises((ValueError, struct.error)):
            receive_request(ours)
        ours.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
