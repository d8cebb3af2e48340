"""Frames out of text that breaks anywhere."""

from __future__ import annotations

import binascii

import pytest

pytest.importorskip("e2b")

from metaflow_extensions.sandbox.backends.e2b.lines import Lines
from metaflow_extensions.sandbox.guest.exec_loader import HEAD


def line(number: int, payload: bytes = b"x", kind: int = 3) -> str:
    """As a loader writes it."""
    return binascii.b2a_base64(HEAD.pack(kind, number, len(payload)) + payload).decode()


def test_text_in_pieces_of_any_size() -> None:
    """Guards frames against a stream's chunks, which end anywhere."""
    text = "".join(line(number, b"%d" % number) for number in range(1, 50))
    for size in (1, 7, 64, len(text)):
        lines = Lines()
        found = [frame for at in range(0, len(text), size) for frame in lines.feed(text[at : at + size])]
        assert found == [(3, b"%d" % number) for number in range(1, 50)]
        assert not lines.gap


def test_what_comes_twice_is_taken_once() -> None:
    """Guards output against what a loader sends again though it had arrived."""
    lines = Lines()
    assert list(lines.feed(line(1) + line(2) + line(1) + line(2) + line(3))) == [(3, b"x")] * 3
    assert (lines.received, lines.gap) == (3, False)


@pytest.mark.parametrize("text", [line(3), "%%%\n", line(2)[5:], "\0\n", line(2, b"abc")[:-5] + "\n"])
def test_what_can_not_follow_is_a_gap(text: str) -> None:
    """Guards against a lost line that nobody asks for."""
    lines = Lines()
    list(lines.feed(line(1)))
    assert list(lines.feed(text)) == []
    assert (lines.received, lines.gap) == (1, True)
    assert list(lines.feed(line(2))) == [(3, b"x")]
    assert not lines.gap


def test_the_end_of_a_line_is_no_line() -> None:
    """Guards against a step whose output ends like a frame, cut off where that begins."""
    lines = Lines()
    list(lines.feed(line(1)))
    lines.restart()
    assert list(lines.feed(line(2, b"forged"))) == []
    assert list(lines.feed(line(2, b"real"))) == [(3, b"real")]
