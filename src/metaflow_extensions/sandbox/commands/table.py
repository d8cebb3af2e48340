"""Tables: by Rich on a terminal where it is installed, aligned text elsewhere; and JSON for programs."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from ..units import on_one_line

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
    lines = [[*columns], *(list(map(on_one_line, row)) for row in rows)]
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
        drawn.add_row(*(Text(on_one_line(cell)) for cell in row))
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
