"""The command ``metaflow-sandbox``: each subcommand is a module, imported when it is called."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType

from .errors import SandboxError


@dataclass(frozen=True)
class Subcommand:
    """A module with ``add_arguments(parser)`` and ``main(options) -> int``, and what it is for."""

    module: str
    help: str


SUBCOMMANDS: Mapping[str, Subcommand] = {
    "service": Subcommand(".service.commands", "a metadata service for flows, without a database"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="metaflow-sandbox")
    names = parser.add_subparsers(dest="subcommand", required=True, metavar="|".join(SUBCOMMANDS))
    loaded: dict[str, ModuleType] = {}
    for name, subcommand in SUBCOMMANDS.items():
        below = names.add_parser(name, help=subcommand.help, description=subcommand.help)
        if given[:1] == [name]:
            loaded[name] = importlib.import_module(subcommand.module, __package__)
            loaded[name].add_arguments(below)
    options = parser.parse_args(given)
    try:
        return int(loaded[options.subcommand].main(options))
    except SandboxError as error:
        sys.stderr.write(f"metaflow-sandbox: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
