"""A loader's frames, taken out of the text of streams that may break anywhere and say things twice."""

from __future__ import annotations

import binascii
from collections.abc import Iterator

from ...guest.exec_loader import HEAD


class Lines:
    """``received`` is the number of the last frame; ``gap`` says that others came which can't follow it."""

    def __init__(self) -> None:
        self.received = 0
        self.gap = False
        self._rest = ""
        self._skipping = False

    def restart(self) -> None:
        """Another stream follows, which may begin in the middle of a line."""
        self._rest, self._skipping = "", True

    def feed(self, text: str) -> Iterator[tuple[int, bytes]]:
        """Kind and content of each frame, once and in order."""
        *lines, self._rest = (self._rest + text).split("\n")
        if self._skipping and lines:
            del lines[0]
            self._skipping = False
        for line in lines:
            if line:
                yield from self._taken(line)

    def _taken(self, line: str) -> Iterator[tuple[int, bytes]]:
        try:
            frame = binascii.a2b_base64(line)
        except (binascii.Error, ValueError):
            frame = b""
        if len(frame) < HEAD.size:
            self.gap = True
            return
        kind, number, length = HEAD.unpack_from(frame)
        if number == self.received + 1 and len(frame) == HEAD.size + length:
            self.received = number
            self.gap = False
            yield kind, frame[HEAD.size :]
        elif number > self.received:
            self.gap = True
