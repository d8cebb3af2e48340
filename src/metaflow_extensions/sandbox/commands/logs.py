"""``logs``: what a task has printed, while it runs and later."""

from __future__ import annotations

import argparse
import contextlib
import os
from typing import Any

from ..supervisor.visits import LOGS
from . import sandboxes
from .kill import chosen_by_id
from .sandboxes import Found
from .table import say
from .task_path import find, full_path
from .visiting import visit

CHUNK = 64 * 1024  # bytes
STREAMS = ("stdout", "stderr")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument("what", metavar="TASK|ID", help="FLOW/RUN/STEP/TASK, or a sandbox's id")
    parser.add_argument(
        "-f", "--follow", action="store_true", help="of a task that runs: go on until its end"
    )
    parser.add_argument("--attempt", type=int, metavar="N", help="of a task that is over; default: the last")
    for stream in STREAMS:
        parser.add_argument(
            f"--{stream}", action="store_true", help=f"of a task that is over: {stream} alone"
        )
    sandboxes.add_arguments(parser)


def main(options: argparse.Namespace) -> int:
    """Print them: from the run's supervisor while the task runs, then from the flow's datastore."""
    survey = sandboxes.find_here(options)
    if "/" not in options.what:
        (sandbox,) = chosen_by_id([options.what], survey)
        return _of_running(sandbox, follow=options.follow)
    path = full_path(options.what, options)
    running = [sandbox for sandbox in survey.found if sandbox.task == path]
    if running and options.attempt in (None, _attempt(running[-1])):
        return _of_running(running[-1], follow=options.follow)
    task = find(path, options.attempt)
    for line in lines(task, [stream for stream in STREAMS if getattr(options, stream)] or list(STREAMS)):
        say(line)
    return 0


def lines(task: Any, streams: list[str]) -> list[str]:
    """The lines of a task that is over, in the order of their times."""
    timed = [(when, line) for stream in streams for when, line in task.loglines(stream)]
    return [line for _, line in sorted(timed, key=lambda entry: entry[0])]


def _attempt(sandbox: Found) -> int | None:
    given = sandbox.labels.get("attempt", "")
    return int(given) if given.isdigit() else None


def _of_running(sandbox: Found, *, follow: bool) -> int:
    with (
        visit(sandbox, LOGS, ["follow"] if follow else []) as connection,
        contextlib.suppress(KeyboardInterrupt),
    ):
        while data := connection.recv(CHUNK):
            while data:
                data = data[os.write(1, data) :]
    return 0
