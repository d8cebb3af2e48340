"""Tables: by Rich on a terminal where it is installed, aligned text elsewhere; and JSON for programs."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

VERSION = 1  # of what --json prints; a field that is added does not change it
GAP = 2  # spaces between columns


def show(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table."""
    if sys.stdout.isatty() and importlib.util.find_spec("rich"):
        _by_rich(columns, rows)
        return
    sys.stdout.write(aligned(columns, rows))


def aligned(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as plain text: what a cell holds is shown on one line."""
    lines = [[*columns], *([" ".join(cell.split()) for cell in row] for row in rows)]
    widths = [max(len(line[number]) for line in lines) for number in range(len(columns))]
    padded = (
        (" " * GAP).join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        for line in lines
    )
    return "".join(f"{line.rstrip()}\n" for line in padded)


def _by_rich(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=SIMPLE, pad_edge=False)
    for column in columns:
        drawn.add_column(column, overflow="fold")
    for row in rows:
        # Text, not markup: a flow may have brackets in its names.
        drawn.add_row(*map(Text, row))
    Console().print(drawn)


def show_json(content: Mapping[str, Any]) -> None:
    """Print one JSON object on one line."""
    say(json.dumps({"version": VERSION, **content}))


def say(text: str = "") -> None:
    """A line of output."""
    sys.stdout.write(f"{text}\n")


def warn(text: str) -> None:
    """A line beside the output."""
    sys.stderr.write(f"{text}\n")


def duration(seconds: float) -> str:
    """A length of time in the two units that matter: 12 ms, 3.2 s, 4m05s, 2h10m, 3d04h."""
    if seconds < 1:
        return f"{max(0.0, seconds) * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    for unit, size, lower, below in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // below:02}{lower}"
    raise AssertionError("unreachable")


def mebibytes(amount: float) -> str:
    """An amount of memory: 512 MiB, 1 GiB, 1.5 GiB."""
    return f"{amount:.0f} MiB" if amount < 1024 else f"{amount / 1024:.3g} GiB"
