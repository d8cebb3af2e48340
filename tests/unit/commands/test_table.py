"""Plain tables."""

from __future__ import annotations

from metaflow_extensions.sandbox.commands.table import aligned


def test_columns_are_aligned() -> None:
    """Guards against tables that scripts can't cut, and cells that break a line."""
    assert aligned(("A", "LONG"), [("1", "x"), ("22\n3", "")]) == "A     LONG\n1     x\n22 3\n"
    assert aligned(("A", "B"), []) == "A  B\n"
