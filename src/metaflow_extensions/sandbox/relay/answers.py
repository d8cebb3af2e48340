"""The end of a request: its answer's frame, and what is left of its stream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..errors import RelayError
from ..guest.frames import FrameError, encode_frame


def encode_answer(answer: dict[str, Any]) -> bytes:
    """The answer's frame. Raises RelayError when it is too large for one."""
    try:
        return encode_frame(answer)
    except FrameError as error:
        raise RelayError(f"the answer is too large ({error}): ask for less at once") from None


def drain(chunks: Iterator[bytes], limit: int) -> None:
    """Read the rest of a stream, so that a request is next. Raises FrameError over ``limit`` bytes."""
    for chunk in chunks:
        limit -= len(chunk)
        if limit < 0:
            raise FrameError("a stream goes on and on after it was refused")
