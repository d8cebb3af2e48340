"""``cleanup``: removes what dead runs left, on this machine and in the clouds, and says what it was."""

from __future__ import annotations

import argparse
import contextlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from ..backends import registry
from ..backends.local_state import LocalState, base_directory
from ..backends.owner import State
from ..supervisor import run_directories
from ..units import duration
from . import sandboxes
from .asking import Answer, ask
from .kill import add_output, described
from .table import say, show_json, warn

HALF_MADE = 60.0  # seconds after which a sandbox that is still being made is nobody's any more


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    sandboxes.add_arguments(parser)
    add_output(parser)


def main(options: argparse.Namespace) -> int:
    """Clean up. Exit code 1 when something could not be removed, or a backend gave no answer."""
    survey = sandboxes.find(options)
    orphans = [sandbox for sandbox in survey.found if sandbox.state is State.ORPHAN]
    removed, failed = (orphans, []) if options.dry_run else sandboxes.destroy(orphans, options.deadline)
    places = _remove_places(options)
    problems = [*survey.unanswered, *failed]
    if options.json:
        show_json(
            {
                "dry_run": options.dry_run,
                "sandboxes": [sandbox.described() for sandbox in removed],
                "directories": [str(place) for place in places],
                "failed": sandboxes.reasons(problems),
            }
        )
        return 1 if problems else 0
    word = "would remove" if options.dry_run else "removed"
    for sandbox in removed:
        say(f"{word} the sandbox {described(sandbox)}, made {duration(sandbox.age)} ago")
    for place in places:
        say(f"{word} the directory {place}")
    if not removed and not places:
        say("Nothing to clean up.")
    elsewhere = [sandbox for sandbox in survey.found if sandbox.state is State.ELSEWHERE]
    if elsewhere:
        say(
            f"Left alone: {len(elsewhere)} made on other machines, where alone it is known whose run is gone."
        )
    unknown = [sandbox for sandbox in survey.found if sandbox.state is State.UNKNOWN]
    if unknown:
        ids = " ".join(sandbox.id for sandbox in unknown)
        say(f"Left alone: {len(unknown)} that no run has made; to end them: kill {ids}")
    for answer in problems:
        warn(f"{answer.backend}: {answer.problem}")
    if survey.unavailable:
        warn(survey.not_asked())
    return 1 if problems else 0


def _remove_places(options: argparse.Namespace) -> list[Path]:
    """What a killed launcher leaves besides sandboxes; all of them, as nothing says whose they were."""
    halves = list(_half_made())
    if halves and not options.dry_run:
        _end_half_made(halves, options)
    directories = [path for path in run_directories.of_this_user() if not run_directories.lives(path)]
    if not options.dry_run:
        for directory in directories:
            run_directories.remove(directory)
    return [*halves, *directories]


def _half_made() -> Iterator[Path]:
    """Directories of sandboxes whose launcher was killed before it had written what they are."""
    base = base_directory()
    for place in (base, *(path for path in base.iterdir() if path.is_dir())):
        for state in LocalState.all(place):
            if state.info() is None and state.directory.is_dir() and _is_old(state.directory):
                yield state.directory


def _is_old(directory: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):  # it has been removed meanwhile
        return time.time() - directory.stat().st_mtime > HALF_MADE
    return False


def _end_half_made(directories: list[Path], options: argparse.Namespace) -> list[Answer[None]]:
    def end(name: str) -> None:
        backend = registry.load(name)
        for directory in directories:
            backend.destroy(directory.name)

    # Which backend began it is not known, and to destroy what is not there is nothing.
    answers = ask(sandboxes.names(options), end, options.deadline)
    for directory in directories:
        if directory.exists():
            shutil.rmtree(directory, ignore_errors=True)
    return answers
