"""Who connects to a run's supervisor from outside the run: to read a task's output, or for a shell inside.

A visitor speaks as a shim does, with the name of what it wants in the place of a task's key, and is
answered by one line of JSON; from there on the connection is what it came for.
"""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Sequence

from .task import TaskRun

LOGS = "visit:logs"  # ID, then "follow" to stay
SHELL = "visit:shell"  # ID, TERM, rows, columns
VISITS = (LOGS, SHELL)
MAX_SIZE = 4096  # rows or columns

log = logging.getLogger(__name__)


def receive_visitor(visitor: socket.socket, what: str, words: Sequence[str], running: list[TaskRun]) -> None:
    """Do for a visitor what it came for."""
    try:
        _serve(visitor, what, words, running)
    except (OSError, ValueError) as error:
        log.warning("a visitor: %s", error)
        visitor.close()


def _serve(visitor: socket.socket, what: str, words: Sequence[str], running: list[TaskRun]) -> None:
    sandbox_id, *rest = words
    task = next((task for task in running if task.sandbox_id == sandbox_id), None)
    if task is None:
        _answer(visitor, f"the sandbox {sandbox_id} has just gone")
    elif what == LOGS:
        _answer(visitor)
        task.tail.show(visitor, follow=rest == ["follow"])
    else:
        term, rows, columns = rest
        size = [min(max(1, int(number)), MAX_SIZE) for number in (rows, columns)]
        _answer(visitor)
        if not task.open_terminal(visitor, term, *size):
            visitor.sendall(b"The step has not started yet: try again in a moment.\r\n")
            visitor.close()


def _answer(visitor: socket.socket, error: str | None = None) -> None:
    visitor.sendall(json.dumps({"error": error}).encode() + b"\n")
    if error:
        visitor.close()
