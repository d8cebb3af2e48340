"""The end of a request, which a guest cannot make endless or too large."""

from __future__ import annotations

import pytest

from metaflow_extensions.sandbox.errors import RelayError
from metaflow_extensions.sandbox.guest.frames import MAX_HEADER, FrameError, encode_frame
from metaflow_extensions.sandbox.relay.answers import drain, encode_answer


def test_an_answer_too_large_for_a_frame_is_refused() -> None:
    """Guards against a listing that ends the connection instead of being refused."""
    assert encode_answer({"found": True}) == encode_frame({"found": True})
    with pytest.raises(RelayError, match="ask for less"):
        encode_answer({"entries": ["x" * MAX_HEADER]})


def test_a_refused_stream_is_read_to_its_end() -> None:
    """Guards against the rest of a refused object that is taken for the next request."""
    chunks = iter([b"abc", b"def"])
    drain(chunks, 6)
    assert next(chunks, None) is None


def test_a_refused_stream_has_to_end() -> None:
    """Guards against a guest that sends for ever what was refused."""
    with pytest.raises(FrameError, match="on and on"):
        drain(iter([b"abc", b"def"]), 5)
