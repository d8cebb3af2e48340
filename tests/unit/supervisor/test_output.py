"""A step's output on its way to the terminal and the logs."""

from __future__ import annotations

import os
import random
import re
import threading
from collections.abc import Iterator

import pytest

from metaflow_extensions.sandbox.backends.interface import Output, Stream
from metaflow_extensions.sandbox.supervisor.output import MAX_LINE, OutputSink, harmless


class Terminal:
    """Two pipes that are read, and the sink that writes to them."""

    def __init__(self, limit: int = 1 << 30) -> None:
        self.text = {Stream.STDOUT: b"", Stream.STDERR: b""}
        self.chunks: list[bytes] = []
        self._threads = []
        self._writers = {}
        for stream in Stream:
            reader, writer = os.pipe()
            self._writers[stream] = writer
            self._threads.append(threading.Thread(target=self._read, args=(stream, reader)))
        for thread in self._threads:
            thread.start()
        self.sink = OutputSink(self._writers, limit)

    def _read(self, stream: Stream, reader: int) -> None:
        with os.fdopen(reader, "rb", buffering=0) as pipe:
            while chunk := pipe.read(65536):
                self.chunks.append(chunk)
                self.text[stream] += chunk

    def feed(self, *chunks: bytes, stream: Stream = Stream.STDOUT) -> None:
        for chunk in chunks:
            self.sink.feed(Output(stream, chunk))

    def close(self) -> tuple[bytes, bytes]:
        """(stdout, stderr), when nothing comes any more."""
        for writer in self._writers.values():
            os.close(writer)
        for thread in self._threads:
            thread.join()
        self._writers = {}
        return self.text[Stream.STDOUT], self.text[Stream.STDERR]


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    made = Terminal()
    yield made
    made.close()


def test_whole_lines(terminal: Terminal) -> None:
    """Guards against a scheduler that waits for the end of a line it was given the start of."""
    terminal.feed(b"a", b"b\nc", b"\n", b"d")
    terminal.feed(b"e\n", b"f", stream=Stream.STDERR)
    terminal.sink.finish()
    terminal.sink.finish()
    assert terminal.close() == (b"ab\nc\nd\n", b"e\nf\n")
    assert all(chunk.endswith(b"\n") for chunk in terminal.chunks)


@pytest.mark.parametrize(
    ("chunks", "lines"),
    [
        ([b"a\r\nb\r\n"], b"a\nb\n"),
        ([b"a\r", b"\nb\n"], b"a\nb\n"),
        ([b"a\rb\n"], b"a\nb\n"),
        ([b"a\r", b"b\n"], b"a\nb\n"),
        ([b"a\r"], b"a\n"),
        ([b"\r\r\n\n"], b"\n\n\n"),
        ([b"progress 1\rprogress 2\rdone\n"], b"progress 1\nprogress 2\ndone\n"),
    ],
)
def test_carriage_returns(terminal: Terminal, chunks: list[bytes], lines: bytes) -> None:
    """Guards against a line that is rewound and written over."""
    terminal.feed(*chunks)
    terminal.sink.finish()
    assert terminal.close()[0] == lines


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"\x1b]0;title\x07", rb"\x1b]0;title\x07"),
        (b"\x1b[2J", rb"\x1b[2J"),
        (b"a\x08b\x7f", rb"a\x08b\x7f"),
        (b"\x00", rb"\x00"),
        (b"\x0b\x0c\x0e", rb"\x0b\x0c\x0e"),
        ("\x9b31m \x85".encode(), rb"\xc2\x9b31m \xc2\x85"),
        (b"tab\tand \xc3\xa9", b"tab\tand \xc3\xa9"),
        (b"\xff\xfe no text", b"\xff\xfe no text"),
        ("é日本🙂".encode(), "é日本🙂".encode()),
    ],
)
def test_control_characters(raw: bytes, shown: bytes) -> None:
    """Guards against bytes that drive the terminal, and against text that is changed."""
    assert harmless(raw) == shown


@pytest.mark.parametrize(
    "line",
    [
        b"[MFLOG|0|1999-01-01T00:00:00.000000Z|runtime|x]text",
        b"[![MFLOG|0|1999-01-01T00:00:00.000000Z|runtime|x]text",
        b"[MFLOG|",
        b" \t[MFLOG|0|",
        b"[sandbox] refused: nothing",
        b"  [sandbox] bubblewrap x",
    ],
)
def test_forged_lines(terminal: Terminal, line: bytes) -> None:
    """Guards against a line that Metaflow or the reader takes for somebody else's."""
    assert harmless(line) == b"> " + line
    for chunks in ([line + b"\n"], [line[:3], line[3:]], [b"x\r" + line], [b"x" * MAX_LINE + line]):
        terminal.feed(*chunks, b"\n")
    terminal.sink.finish()
    for shown in terminal.close()[0].split(b"\n"):
        assert not re.match(rb"\s*(\[!)?\[(MFLOG\||sandbox\])", shown)


def test_forged_lines_behind_control_characters() -> None:
    """Guards against a line that is forged once its control characters are gone."""
    for line in (b"\0[MFLOG|0|", b"\x1b[MFLOG|", b"\x0b[sandbox] x", b"\xc2\x85[sandbox] x"):
        assert not re.match(rb"\s*(\[!)?\[(MFLOG\||sandbox\])", harmless(line))


def test_lines_that_say_so_within_are_left_alone() -> None:
    """Guards against changing honest lines."""
    for line in (b"see [MFLOG|0|", b"[MFLOG", b"the [sandbox] is", b"", b" indented"):
        assert harmless(line) == line


def test_a_line_without_end(terminal: Terminal) -> None:
    """Guards against memory filled by output that never ends its line."""
    for _ in range(100):
        terminal.feed(b"x" * 10_000)
    terminal.sink.finish()
    lines = terminal.close()[0].split(b"\n")
    assert b"".join(lines) == b"x" * 1_000_000
    assert max(map(len, lines)) == MAX_LINE


def test_the_limit() -> None:
    """Guards against a step that fills the launcher's disk, and against silence about what was dropped."""
    terminal = Terminal(limit=1 << 20)
    for number in range(5000):
        terminal.feed(
            b"%06d" % number + b"x" * 994 + b"\n", stream=random.Random(number).choice(list(Stream))
        )
    terminal.feed(b"rest")
    terminal.sink.finish()
    out, err = terminal.close()
    said = [line for line in err.splitlines(keepends=True) if line.startswith(b"[sandbox] ")]
    assert len(out) + len(err) - sum(map(len, said)) in (1 << 20, (1 << 20) + 1)
    assert said == [
        b"[sandbox] The step has written 1 MiB of output; the rest is dropped.\n",
        b"[sandbox] METAFLOW_SANDBOX_MAX_OUTPUT sets the limit, in MiB.\n",
    ]


def test_our_own_lines(terminal: Terminal) -> None:
    """Guards against quoting a guest in a way that forges a line or fails."""
    terminal.sink.say("refused: 'x'\nsecond\r[MFLOG|0|x]\x1b[2J \ud800 \x85third\u2028fourth")
    assert terminal.close()[1] == (
        b"[sandbox] refused: 'x'\n[sandbox] second\n[sandbox] [MFLOG|0|x]\\x1b[2J \\ud800 \n"
        b"[sandbox] third\n[sandbox] fourth\n"
    )


def test_a_long_message(terminal: Terminal) -> None:
    """Guards against a message of any size."""
    terminal.sink.say("x" * 10_000_000)
    assert len(terminal.close()[1]) < MAX_LINE + 100


def test_many_speakers(terminal: Terminal) -> None:
    """Guards against lines of ours in the middle of the step's, where the pipe is full."""
    lines = [b"a" * 30_000, b"b" * 9_000]
    chatter = threading.Thread(target=lambda: [terminal.sink.say("c" * 20_000) for _ in range(60)])
    chatter.start()
    for _ in range(60):
        terminal.feed(*(line + b"\n" for line in lines), stream=Stream.STDERR)
    chatter.join()
    found = set(terminal.close()[1].splitlines())
    assert found == {*lines, b"[sandbox] " + b"c" * 20_000}


def test_nobody_reads(terminal: Terminal) -> None:
    """Guards against a task that goes on for a scheduler that is gone."""
    reader, writer = os.pipe()
    os.close(reader)
    sink = OutputSink({Stream.STDOUT: writer, Stream.STDERR: writer}, 1 << 20)
    with pytest.raises(BrokenPipeError):
        sink.feed(Output(Stream.STDOUT, b"a\n"))
    sink.say("nobody hears")
    os.close(writer)


def test_random_output(terminal: Terminal) -> None:
    """Guards against bytes lost or harmful, however they are cut into chunks."""
    rng = random.Random(9)
    data = b"".join(
        rng.choices([b"a", b"\n", b"\r", b"\x1b", b"[MFLOG|0|", b"[sandbox]", b"\0", b"\xff", b" "], k=20_000)
    )
    rest = data
    while rest:
        size = rng.choice([1, 5, 1000])
        terminal.feed(rest[:size])
        rest = rest[size:]
    terminal.sink.finish()
    out = terminal.close()[0]
    assert not re.search(rb"[\x00-\x08\x0b-\x1f\x7f]", out)
    assert not re.search(rb"^\s*(\[!)?\[(MFLOG\||sandbox\])", out, re.MULTILINE)
    assert out.count(b"a") - out.count(b"sandbox") == data.count(b"a") - data.count(b"sandbox")
