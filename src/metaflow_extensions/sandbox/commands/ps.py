"""``ps``, also ``list``: the sandboxes there are, on this machine and in the clouds."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time

from ..units import duration
from . import sandboxes
from .sandboxes import Survey
from .table import say, show, show_json, warn

EVERY = 2.0  # seconds
COLUMNS = ("ID", "BACKEND", "STATE", "AGE", "TASK", "ATTEMPT", "USER")
CLEAR = "\x1b[H\x1b[2J"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    sandboxes.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object, see docs/commands.md")
    parser.add_argument(
        "--watch",
        nargs="?",
        type=float,
        const=EVERY,
        metavar="SECONDS",
        help=f"look again and again, every {EVERY:g} seconds unless another number is given, until Ctrl-C",
    )


def main(options: argparse.Namespace) -> int:
    """Print them. Exit code 1 when a backend gave no answer."""
    if options.watch is None:
        return look(options)
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            if sys.stdout.isatty() and not options.json:
                sys.stdout.write(CLEAR)
            look(options)
            sys.stdout.flush()
            time.sleep(options.watch)
    return 0


def look(options: argparse.Namespace) -> int:
    """Print what there is now."""
    survey = sandboxes.find(options)
    if options.json:
        show_json(survey.described())
    else:
        _print(survey)
    return 1 if survey.unanswered else 0


def _print(survey: Survey) -> None:
    if survey.found:
        show(
            COLUMNS,
            [
                [
                    sandbox.id,
                    sandbox.backend,
                    sandbox.shown,
                    duration(sandbox.age),
                    sandbox.task or "-",
                    sandbox.labels.get("attempt", "-"),
                    sandbox.labels.get("user", "-"),
                ]
                for sandbox in survey.found
            ],
        )
    else:
        say("No sandboxes.")
    for answer in survey.unanswered:
        warn(f"{answer.backend}: {answer.problem}")
    if survey.unavailable:
        warn(survey.not_asked())
