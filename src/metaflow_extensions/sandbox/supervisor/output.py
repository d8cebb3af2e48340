"""A step's output on its way to the terminal and the logs: whole lines, harmless, bounded."""

from __future__ import annotations

import contextlib
import os
import re
import threading

from ..backends.interface import Output, Stream
from .tail import Tail

FLOOD = 100  # lines in one chunk
MAX_LINE = 64 * 1024  # bytes; a longer line is broken
# Carriage returns rewind a line, escapes drive the terminal, C1 controls (C2 80 to C2 9F) do both.
CONTROL = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]|\xc2[\x80-\x9f]")
LINE_BREAK = re.compile(rb"\r\n|\r|\n")
OURS = "[sandbox] "
# Metaflow takes the one for a line that it wrote itself, timestamp and source included; the other is how
# we begin our own.
FORGED = re.compile(rb"\s*((\[!)?\[MFLOG\||\[sandbox\])")
QUOTE = b"> "  # not a space: Metaflow strips lines


def visible(match: re.Match[bytes]) -> bytes:
    r"""A control character as the text ``\x1b``."""
    return b"".join(b"\\x%02x" % byte for byte in match.group())


def harmless(line: bytes) -> bytes:
    """One line without control characters, not mistaken for Metaflow's own or for ours."""
    line = CONTROL.sub(visible, line)
    return QUOTE + line if FORGED.match(line) else line


class OutputSink:
    """Writes a task's output to two descriptors, at most ``limit`` bytes of it.

    The rest is read and dropped, so that a step that floods its output neither blocks nor fills
    the launcher's disk. Metaflow's scheduler reads lines, and waits for the end of one it began:
    only whole lines are passed on.
    """

    def __init__(self, descriptors: dict[Stream, int], limit: int) -> None:
        self._descriptors = descriptors
        self._limit = limit
        self._written = 0
        self._pending = {Stream.STDOUT: b"", Stream.STDERR: b""}
        # The relay's threads speak, too: a line of theirs must not stand in the middle of the step's.
        self._writing = threading.Lock()
        self.tail = Tail()

    def feed(self, output: Output) -> None:
        """Pass on the whole lines in one chunk. Raises OSError when nobody reads any more."""
        if self._written >= self._limit:
            return
        text = self._pending[output.stream] + output.data
        # A lone carriage return at the end may be the first half of a line break.
        held = b"\r" if text.endswith(b"\r") else b""
        lines = LINE_BREAK.split(text[: len(text) - len(held)])
        rest = lines.pop() + held
        while len(rest) > MAX_LINE:
            lines.append(rest[:MAX_LINE])
            rest = rest[MAX_LINE:]
        self._pending[output.stream] = rest
        # A line a write, unless they come in floods: Metaflow's scheduler shows one line each time its
        # pipe becomes readable, and would keep the others back until the next.
        batch = 1 if len(lines) <= FLOOD else len(lines)
        for start in range(0, len(lines), batch):
            self._write(
                output.stream, b"".join(harmless(line) + b"\n" for line in lines[start : start + batch])
            )

    def say(self, message: str) -> None:
        """Write lines of our own to the task's standard error."""
        lines = "".join(f"{OURS}{line}\n" for line in message[:MAX_LINE].splitlines())
        # A message may quote what a guest sent: what is no text is shown as such.
        data = CONTROL.sub(visible, lines.encode(errors="backslashreplace"))
        # When nobody reads any more, there is nobody to tell.
        self.tail.add(data)
        with self._writing, contextlib.suppress(BrokenPipeError):
            write_all(self._descriptors[Stream.STDERR], data)

    def finish(self) -> None:
        """Pass on what stands behind the last line break."""
        for stream, rest in self._pending.items():
            if rest and self._written < self._limit:
                self._write(stream, harmless(rest.rstrip(b"\r")) + b"\n")
            self._pending[stream] = b""

    def _write(self, stream: Stream, data: bytes) -> None:
        left = self._limit - self._written
        self._written += len(data)
        self.tail.add(data[:left])
        with self._writing:
            write_all(self._descriptors[stream], data[:left])
            if self._written >= self._limit and not data[:left].endswith(b"\n"):
                write_all(self._descriptors[stream], b"\n")
        if self._written >= self._limit:
            self.say(
                f"The step has written {self._limit >> 20} MiB of output; the rest is dropped.\n"
                "METAFLOW_SANDBOX_MAX_OUTPUT sets the limit, in MiB."
            )


def write_all(descriptor: int, data: bytes) -> None:
    """Write everything, waiting for the reader."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
