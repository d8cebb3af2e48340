"""``kill``: ends sandboxes, and with them the tasks that run in them."""

from __future__ import annotations

import argparse

from ..errors import SandboxError
from . import sandboxes
from .sandboxes import FILTERS, Found, Survey
from .table import say, show_json, warn

NOTHING_NAMED = 2  # an exit code, as of other mistakes in the command line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument("ids", nargs="*", metavar="ID", help="a sandbox's id, or how it begins")
    parser.add_argument("--all", action="store_true", help="every sandbox that the other options choose")
    sandboxes.add_arguments(parser)
    add_output(parser)


def add_output(parser: argparse.ArgumentParser) -> None:
    """How much is done, and how it is told."""
    parser.add_argument("--dry-run", action="store_true", help="say what would be ended, and end nothing")
    parser.add_argument("--json", action="store_true", help="one JSON object, see docs/commands.md")


def main(options: argparse.Namespace) -> int:
    """End them. Exit code 1 when one could not be ended, or an id is nobody's."""
    if not (options.ids or options.all or any(getattr(options, name) for name in FILTERS)):
        warn(
            "Name sandboxes by their ids, or choose by --flow, --run, --step, --task or --user, or say --all."
        )
        return NOTHING_NAMED
    survey = sandboxes.find(options)
    chosen = chosen_by_id(options.ids, survey) if options.ids else survey.found
    ended, failed = (chosen, []) if options.dry_run else sandboxes.destroy(chosen, options.deadline)
    problems = [*survey.unanswered, *failed]
    if options.json:
        show_json(
            {
                "dry_run": options.dry_run,
                "killed": [sandbox.described() for sandbox in ended],
                "failed": sandboxes.reasons(problems),
            }
        )
    else:
        for sandbox in ended:
            say(f"{'would kill' if options.dry_run else 'killed'} {described(sandbox)}")
        if not chosen:
            say("No sandboxes.")
        for answer in problems:
            warn(f"{answer.backend}: {answer.problem}")
    return 1 if problems else 0


def described(sandbox: Found) -> str:
    """One sandbox in a sentence."""
    return f"{sandbox.id} ({', '.join(part for part in (sandbox.backend, sandbox.task) if part)})"


def chosen_by_id(ids: list[str], survey: Survey) -> list[Found]:
    """Each sandbox by its id or the beginning of it. Raises NoSuchSandbox."""
    chosen = []
    for wanted in ids:
        found = [sandbox for sandbox in survey.found if sandbox.id == wanted] or [
            sandbox for sandbox in survey.found if sandbox.id.startswith(wanted)
        ]
        if len(found) != 1:
            several = ", ".join(sandbox.id for sandbox in found)
            silent = "".join(f"; {answer.backend}: {answer.problem}" for answer in survey.unanswered)
            raise NoSuchSandbox(
                f"{wanted!r} is the beginning of several: {several}"
                if several
                else f"there is no sandbox {wanted!r}: 'ps' shows which there are{silent}"
            )
        chosen += found
    return chosen


class NoSuchSandbox(SandboxError):
    """An id that no sandbox, or more than one, has."""
