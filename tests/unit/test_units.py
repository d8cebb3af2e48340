"""Lengths of time and amounts, for people."""

from __future__ import annotations

import pytest

from metaflow_extensions.sandbox.units import count, duration, mebibytes, on_one_line


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


def test_counts() -> None:
    """Guards against 1 tasks."""
    assert [count(number, "task") for number in (0, 1, 2)] == ["0 tasks", "1 task", "2 tasks"]


def test_foreign_text() -> None:
    """Guards a terminal against what a guest or a provider puts into a name."""
    assert on_one_line("a\n\tb \x1b[2Jc\x9b é") == "a b \\x1b[2Jc\\x9b é"
