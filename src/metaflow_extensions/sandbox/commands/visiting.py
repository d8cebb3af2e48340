"""Connections to the supervisor of a run, for what only it has: a task's output, a shell inside."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence

from ..errors import SandboxError
from ..supervisor import run_directories
from ..supervisor.reaper import LABEL
from ..supervisor.shim import request
from .sandboxes import Found

ANSWER_WITHIN = 10.0  # seconds


class NotReachable(SandboxError):
    """Nobody on this machine can be asked about a sandbox."""


def visit(sandbox: Found, what: str, words: Sequence[str] = ()) -> socket.socket:
    """A connection that is what was asked for. Raises NotReachable."""
    directory = run_directories.find(sandbox.labels.get(LABEL, ""))
    if directory is None:
        raise NotReachable(
            f"{sandbox.id} belongs to no run that can be asked from here: it is on another machine, or has "
            "another TMPDIR"
        )
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(ANSWER_WITHIN)
    try:
        connection.connect(str(directory / run_directories.CONTROL))
        request(connection, what, [sandbox.id, *words])
        answer = json.loads(_line(connection))
    except (OSError, ValueError) as error:
        connection.close()
        raise NotReachable(f"the run of {sandbox.id} does not answer: {error}") from error
    if answer["error"]:
        connection.close()
        raise NotReachable(answer["error"])
    connection.settimeout(None)
    return connection


def _line(connection: socket.socket) -> bytes:
    """Byte by byte: what follows is for whoever gets the connection."""
    line = b""
    while not line.endswith(b"\n"):
        part = connection.recv(1)
        if not part:
            raise ValueError("it ended the connection")
        line += part
    return line
