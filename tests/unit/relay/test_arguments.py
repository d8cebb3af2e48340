"""Typed access to what a guest sent."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest

from metaflow_extensions.sandbox.errors import RelayError
from metaflow_extensions.sandbox.relay.arguments import (
    MAX_TEXT,
    integer,
    items,
    optional_mapping,
    optional_number,
    optional_text,
    text,
    texts,
)

MANY = "x" * (MAX_TEXT + 1)
TEXTS: list[Any] = ["", "x", "ü\n"]
NO_TEXTS: list[Any] = ["a\0b", "\ud800", MANY]
NUMBERS: list[Any] = [0, 1, (1 << 31) - 1]
NO_NUMBERS: list[Any] = [True, False, 1e15, -1e15, 10**30, math.inf, -math.inf, math.nan]
LISTS: list[Any] = [["a", 1], ["a\0"], ["\udfff"], [None], [["a"]], [{}, "x"], [MANY]]
MAPPINGS: list[Any] = [{}, {"a": [1]}]
READERS: dict[Callable[..., Any], tuple[list[Any], list[Any]]] = {
    text: (TEXTS, [*NO_TEXTS, None, *NUMBERS, *NO_NUMBERS, *LISTS, *MAPPINGS]),
    optional_text: ([*TEXTS, None], [*NO_TEXTS, *NUMBERS, *NO_NUMBERS, *LISTS, *MAPPINGS]),
    texts: ([[], ["a", ""]], [None, *TEXTS, *NO_TEXTS, *NUMBERS, *NO_NUMBERS, *LISTS, *MAPPINGS]),
    items: ([[], [{}], [{"a": 1}]], [None, *TEXTS, *NUMBERS, *NO_NUMBERS, *LISTS, *MAPPINGS]),
    optional_mapping: ([None, *MAPPINGS], [*TEXTS, *NUMBERS, *NO_NUMBERS, *LISTS, []]),
    integer: (NUMBERS, [None, -1, 1 << 31, 1.0, *NO_NUMBERS, *TEXTS, *LISTS, *MAPPINGS]),
    optional_number: ([None, *NUMBERS, -1, 1.5, 1e14], [*NO_NUMBERS, *TEXTS, *LISTS, *MAPPINGS]),
}


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
def test_only_what_is_asked_for(reader: Callable[..., Any]) -> None:
    """Guards against a value of another type, or one that no reader can store or print."""
    good, bad = READERS[reader]
    for value in good:
        assert reader({"field": value}, "field") == value
    for value in bad:
        with pytest.raises(RelayError, match="'field'"):
            reader({"field": value}, "field")


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
def test_missing(reader: Callable[..., Any]) -> None:
    """Guards against a crash on a field that is not there."""
    if reader in (optional_text, optional_mapping, optional_number):
        assert reader({}, "field") is None
    else:
        with pytest.raises(RelayError, match="'field'"):
            reader({}, "field")


def test_json_numbers() -> None:
    """Guards against numbers that only JSON's readers know, such as NaN and Infinity."""
    for raw in ("NaN", "Infinity", "-Infinity", "1e999"):
        with pytest.raises(RelayError):
            optional_number(json.loads(f'{{"field": {raw}}}'), "field")
