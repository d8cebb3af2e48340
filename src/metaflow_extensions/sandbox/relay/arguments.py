"""Typed access to the fields of a request; a guest may have sent anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from ..errors import RelayError

MAX_TEXT = 1 << 20  # characters


def text(header: Mapping[str, Any], name: str) -> str:
    """A required string."""
    value = header.get(name)
    if not is_text(value):
        raise RelayError(f"the field {name!r} is not text")
    return cast("str", value)


def is_text(value: object) -> bool:
    """Whether it is a string that every reader can store and print: no NUL, no lone surrogate."""
    if not isinstance(value, str) or len(value) > MAX_TEXT or "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def optional_text(header: Mapping[str, Any], name: str) -> str | None:
    """A string or None."""
    return None if header.get(name) is None else text(header, name)


def texts(header: Mapping[str, Any], name: str) -> list[str]:
    """A required list of strings."""
    value = header.get(name)
    if not isinstance(value, list) or not all(map(is_text, value)):
        raise RelayError(f"the field {name!r} is not a list of text")
    return value


def items(header: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """A required list of objects."""
    value = header.get(name)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise RelayError(f"the field {name!r} is not a list of objects")
    return value


def optional_mapping(header: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """An object or None."""
    value = header.get(name)
    if value is not None and not isinstance(value, dict):
        raise RelayError(f"the field {name!r} is not an object")
    return value


def integer(header: Mapping[str, Any], name: str) -> int:
    """A required whole number of at most 32 bits."""
    value = header.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 31:
        raise RelayError(f"the field {name!r} is not a whole number")
    return value


def optional_number(header: Mapping[str, Any], name: str) -> float | None:
    """A finite number or None."""
    value = header.get(name)
    if value is None:
        return None
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not abs(value) < 1e15:
        raise RelayError(f"the field {name!r} is not a number")
    return float(value)
