"""JSON that a sandbox writes: parsed under limits, checked, and written again in one form."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final, NoReturn

from ..errors import RelayError

MAX_DATA_JSON: Final = 16 << 20
MAX_DEPTH: Final = 32
MAX_PARTS: Final = 500_000
"""Objects and lists: each takes up to 30 times its bytes once parsed. Metaflow writes two an artifact."""

_MAX_NAME = 256
_MAX_SCALAR = 4096

# The closing quote is optional, so that text without one is passed over once and not once per quote.
_BRACKETS = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[{]|[\]}]', re.DOTALL)
_SHA1 = re.compile(r"[0-9a-f]{40}")


def canonical_json(raw: bytes, *, max_bytes: int = MAX_DATA_JSON, max_depth: int = MAX_DEPTH) -> bytes:
    """Write the document again as ``json.dumps`` does, so that every reader sees what was checked.

    ``max_bytes`` limits the input, ``max_depth`` the nesting. Raises RelayError for anything else than one
    UTF-8 document without repeated keys, NaN, infinities and lone surrogates.
    """
    return _dump(_parse(raw, max_bytes, max_depth))


def check_data_json(raw: bytes, *, max_bytes: int = MAX_DATA_JSON) -> dict[str, Any]:
    """Parse ``<attempt>.data.json``: ``{"objects": {name: sha1}, "info": {name: {...}}, ...}``.

    ``json.dumps`` of the result is what to store. Artifact names are identifiers of at most 256 characters,
    every object has its info, and info holds scalars apart from ``serializer_info``. Raises RelayError.
    """
    document = _parse(raw, max_bytes, MAX_DEPTH)
    _dump(document)
    if not isinstance(document, dict):
        raise _refuse("it is no object")
    objects, info = document.get("objects"), document.get("info")
    if not isinstance(objects, dict) or not isinstance(info, dict):
        raise _refuse("objects and info must be objects")
    for name, sha in objects.items():
        if not name.isidentifier() or len(name) > _MAX_NAME:
            raise _refuse(f"{name[:_MAX_NAME]!r} cannot be an artifact's name")
        if not isinstance(sha, str) or not _SHA1.fullmatch(sha):
            raise _refuse(f"{name!r} is not stored under a SHA-1")
    if objects.keys() != info.keys():
        raise _refuse("objects and info name different artifacts")
    for name, details in info.items():
        if not isinstance(details, dict):
            raise _refuse(f"info of {name!r} is no object")
        _check_info(name, details)
    for key, value in document.items():
        if key not in ("objects", "info"):
            _check_scalar(key, value)
    if type(document.get("attempt")) is not int or document["attempt"] < 0:
        raise _refuse("attempt is no number")
    return document


def _check_info(name: str, details: Mapping[str, Any]) -> None:
    for key, value in details.items():
        if key == "serializer_info":
            if not isinstance(value, dict):
                raise _refuse(f"serializer_info of {name!r} is no object")
        else:
            _check_scalar(key, value)
    for key, kinds in (("size", (int,)), ("type", (str,)), ("encoding", (str,))):
        if type(details.get(key)) not in kinds:
            raise _refuse(f"info of {name!r} has no proper {key}")


def _check_scalar(key: str, value: Any) -> None:
    if isinstance(value, (dict, list)) or (isinstance(value, str) and len(value) > _MAX_SCALAR):
        raise _refuse(f"{key[:_MAX_NAME]!r} is no short scalar")


def _parse(raw: bytes, max_bytes: int, max_depth: int) -> Any:
    if len(raw) > max_bytes:
        raise _refuse(f"it is over {max_bytes} bytes")
    try:
        text = raw.decode("utf-8")
        _check_depth(text, max_depth)
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except ValueError as error:
        raise _refuse(str(error)[:200]) from None


def _dump(document: Any) -> bytes:
    try:
        json.dumps(document, ensure_ascii=False).encode(
            "utf-8"
        )  # a lone surrogate breaks its readers' prints
        return json.dumps(document, allow_nan=False).encode("ascii")
    except ValueError as error:
        raise _refuse(str(error)[:200]) from None


def _check_depth(text: str, max_depth: int) -> None:
    depth = parts = 0
    for match in _BRACKETS.finditer(text):
        kind = text[match.start()]
        if kind in "[{":
            depth += 1
            parts += 1
            if parts > MAX_PARTS:
                raise _refuse(f"it has over {MAX_PARTS} parts")
            if depth > max_depth:
                raise _refuse(f"it is nested deeper than {max_depth}")
        elif kind in "]}":
            depth -= 1


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise _refuse("a key is repeated")
    return result


def _no_constant(name: str) -> NoReturn:
    raise _refuse(f"{name} is not JSON")


def _refuse(cause: str) -> RelayError:
    return RelayError(
        f"JSON of the task refused: {cause}; a step that runs Metaflow's own code writes no such document"
    )
