"""Plain tables, lengths of time, amounts."""

from __future__ import annotations

import pytest

from metaflow_extensions.sandbox.commands.table import aligned, duration, mebibytes


def test_columns_are_aligned() -> None:
    """Guards against tables that scripts can't cut, and cells that break a line."""
    assert aligned(("A", "LONG"), [("1", "x"), ("22\n3", "")]) == "A     LONG\n1     x\n22 3\n"
    assert aligned(("A", "B"), []) == "A  B\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0 ms"),
        (0.0124, "12 ms"),
        (3.21, "3.2 s"),
        (59.94, "59.9 s"),
        (60, "1m00s"),
        (245, "4m05s"),
        (7800, "2h10m"),
        (273_600, "3d04h"),
    ],
)
def test_lengths_of_time(seconds: float, text: str) -> None:
    """Guards against ages nobody can read."""
    assert duration(seconds) == text


@pytest.mark.parametrize(("amount", "text"), [(512, "512 MiB"), (1024, "1 GiB"), (1536, "1.5 GiB")])
def test_amounts(amount: float, text: str) -> None:
    """Guards against sizes in a unit of the reader's guess."""
    assert mebibytes(amount) == text
