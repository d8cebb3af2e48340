"""``cache ls|rm|prune``: environments of packages and wheels that are kept, and what removes them."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Sequence

from metaflow import metaflow_config

from ..packages.cache import Entry, PackageCache, default_directory

DAY = 24 * 3600.0  # seconds
MIB = 1 << 20  # bytes
SHOWN = 12  # characters of a name, which are enough to tell one from another
VERSION = 1  # of what --json prints; a field that is added does not change it


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The subcommands and their options."""
    names = parser.add_subparsers(dest="action", required=True, metavar="ls|rm|prune")
    listing = names.add_parser("ls", help="what is kept, how large it is, and when it was used last")
    listing.add_argument("--json", action="store_true", help="one JSON object, see docs/packages.md")
    removing = names.add_parser("rm", help="remove some of it")
    removing.add_argument("names", nargs="+", metavar="NAME", help="as ls shows it, or how it begins")
    pruning = names.add_parser(
        "prune", help="remove all that is not in use; what was not used for longest first"
    )
    pruning.add_argument("--size", type=float, metavar="MIB", help="until so many MiB are left")
    pruning.add_argument(
        "--older", type=float, metavar="DAYS", help="only what was not used for so many days"
    )


def main(options: argparse.Namespace) -> int:
    """Return the exit code: 1 when something that was named is not there, or in use."""
    cache = PackageCache(default_directory(metaflow_config.SANDBOX_CACHE))
    if options.action == "ls":
        show(cache, as_json=options.json)
        return 0
    if options.action == "rm":
        return remove(cache, options.names)
    tell_removed(prune(cache, options.size, options.older))
    return 0


def show(cache: PackageCache, *, as_json: bool = False) -> None:
    """Print what is kept."""
    entries = cache.entries()
    if as_json:
        listed = [dataclasses.asdict(entry) for entry in entries]
        say(json.dumps({"version": VERSION, "directory": str(cache.directory), "entries": listed}))
        return
    say(f"{cache.directory}: {len(entries)} entries, {sum(entry.size for entry in entries) / MIB:.0f} MiB")
    for entry in entries:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used))
        say(f"{entry.name[:SHOWN]}  {entry.kind:11}  {entry.size / MIB:8.1f} MiB  {used}  {entry.holds}")


def remove(cache: PackageCache, names: Sequence[str]) -> int:
    """Remove what is named; the exit code."""
    code = 0
    for name in names:
        found = [entry for entry in cache.entries() if entry.name.startswith(name)]
        for entry in found:
            if cache.remove(entry):
                tell_removed([entry])
            else:
                warn(f"{entry.name[:SHOWN]} is in use")
                code = 1
        if not found:
            warn(f"nothing in {cache.directory} is called {name!r}: metaflow-sandbox cache ls")
            code = 1
    return code


def prune(cache: PackageCache, size: float | None = None, older: float | None = None) -> list[Entry]:
    """Remove what is not in use until ``size`` MiB are left, or what is ``older``, in days; what went."""
    if older is None:
        return cache.shrink(int((size or 0) * MIB))
    cache.tidy()
    aged = [entry for entry in cache.entries() if time.time() - entry.used > older * DAY]
    removed = [entry for entry in aged if cache.remove(entry)]
    return removed + (cache.shrink(int(size * MIB)) if size is not None else [])


def tell_removed(entries: Sequence[Entry]) -> None:
    """Print what was removed."""
    for entry in entries:
        say(f"removed {entry.kind} {entry.name[:SHOWN]} ({entry.size / MIB:.1f} MiB): {entry.holds}")


def say(text: str) -> None:
    """A line of output."""
    sys.stdout.write(f"{text}\n")


def warn(text: str) -> None:
    """A line beside the output."""
    sys.stderr.write(f"{text}\n")
