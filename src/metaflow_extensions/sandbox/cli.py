"""The command ``metaflow-sandbox``: each subcommand is a module, imported when it is called."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import NoReturn

from .commands.asking import is_anybody_silent
from .errors import SandboxError


@dataclass(frozen=True)
class Subcommand:
    """A module with ``add_arguments(parser)`` and ``main(options) -> int``, and what it is for."""

    module: str
    help: str


# Those that can be called behind a flow's file, too: python flow.py sandbox NAME
FOR_FLOWS: Mapping[str, Subcommand] = {
    "doctor": Subcommand(".commands.doctor", "can sandboxes be made here, and what mends what is missing"),
    "backends": Subcommand(".commands.backends", "which backends there are, and how to install them"),
    "ps": Subcommand(".commands.ps", "which sandboxes there are, here and in the clouds"),
    "list": Subcommand(".commands.ps", "the same as ps"),
    "kill": Subcommand(".commands.kill", "end sandboxes, and the tasks in them"),
    "logs": Subcommand(".commands.logs", "what a task has printed, while it runs and later"),
    "shell": Subcommand(".commands.shell", "a shell in a sandbox that runs or was kept"),
    "explain": Subcommand(".commands.explain", "one page about a task and its sandbox"),
    "cache": Subcommand(".commands.cache", "environments of packages that are kept, and what removes them"),
    "cleanup": Subcommand(".commands.cleanup", "remove what runs left that are gone"),
}
SUBCOMMANDS: Mapping[str, Subcommand] = {
    **FOR_FLOWS,
    "service": Subcommand(".service.commands", "a metadata service for flows, without a database"),
}


def main(
    arguments: Sequence[str] | None = None,
    *,
    program: str = "metaflow-sandbox",
    subcommands: Mapping[str, Subcommand] = SUBCOMMANDS,
    context: object = None,
) -> int:
    """Return the exit code. ``context`` is what a flow's file knows: see ``commands.doctor.Context``."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog=program)
    names = parser.add_subparsers(dest="subcommand", required=True, metavar="|".join(subcommands))
    loaded: dict[str, ModuleType] = {}
    for name, subcommand in subcommands.items():
        below = names.add_parser(name, help=subcommand.help, description=subcommand.help)
        if given[:1] == [name]:
            loaded[name] = importlib.import_module(subcommand.module, __package__)
            loaded[name].add_arguments(below)
    options = parser.parse_args(given)
    options.context = context
    try:
        return int(loaded[options.subcommand].main(options))
    except SandboxError as error:
        sys.stderr.write(f"{program}: {error}\n")
        return 1
    except BrokenPipeError:
        # Whoever reads has seen enough: what is still buffered has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def console() -> NoReturn:
    """The console script."""
    leave(main())


def leave(code: int) -> NoReturn:
    """End the process, also while a provider's SDK hangs."""
    if is_anybody_silent():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    console()
