"""The frames between a guest and the relay."""

from __future__ import annotations

import io
import random
import socket
import threading
from typing import Any, BinaryIO, cast

import pytest

from metaflow_extensions.sandbox.guest.frames import (
    LENGTHS,
    MAX_HEADER,
    MAX_PARTS,
    MAX_PAYLOAD,
    ChannelClosed,
    FrameError,
    encode_frame,
    parse_header,
    read_exact,
    read_frame,
    read_lengths,
    read_stream,
    write_stream,
)

HEADERS: list[dict[str, Any]] = [
    {},
    {"verb": "x"},
    {"a": [1, 1.5, None, True, "ü\n\0\ud800", {"b": []}]},
    {"x" * 1000: "y" * 100_000},
]


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("payload", [b"", b"x", bytes(range(256)) * 100])
def test_what_goes_in_comes_out(header: dict[str, Any], payload: bytes) -> None:
    """Guards against a frame that is read otherwise than it was written."""
    stream = io.BytesIO(encode_frame(header, payload) * 2 + b"rest")
    assert read_frame(stream) == (header, payload)
    assert read_frame(stream) == (header, payload)
    assert stream.read() == b"rest"


def test_the_limits() -> None:
    """Guards against frames that one side writes and the other refuses."""
    filler = MAX_HEADER - len(b'{"a":""}')
    assert read_frame(io.BytesIO(encode_frame({"a": "x" * filler})))[0] == {"a": "x" * filler}
    read_frame(io.BytesIO(encode_frame({}, b"x" * MAX_PAYLOAD)))
    for header, payload in (({"a": "x" * (filler + 1)}, b""), ({}, b"x" * (MAX_PAYLOAD + 1))):
        with pytest.raises(FrameError, match="over the limit"):
            encode_frame(header, payload)  # type: ignore[arg-type]
    for sizes in ((MAX_HEADER + 1, 0), (0, MAX_PAYLOAD + 1), (2**32 - 1, 2**32 - 1)):
        with pytest.raises(FrameError, match="over the limit"):
            read_lengths(io.BytesIO(LENGTHS.pack(*sizes)))


@pytest.mark.parametrize("end", range(1, 30))
def test_an_end_in_the_middle(end: int) -> None:
    """Guards against half a frame being taken for a whole one."""
    with pytest.raises(ChannelClosed):
        read_frame(io.BytesIO(encode_frame({"verb": "save"}, b"payload")[:end]))


def test_a_stream_that_gives_nothing() -> None:
    """Guards against a channel that is not ready being taken for an empty frame."""

    class NotReady(io.RawIOBase):
        def read(self, size: int = -1) -> None:
            return None

    with pytest.raises(ChannelClosed):
        read_exact(cast("BinaryIO", NotReady()), 1)


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"null", b"1", b'"a"', b"{", b"{} {}", b"\xff", b"[" * 100_000, b'{"a":' * 100_000,
     b'{"a":[' + b"[]," * MAX_PARTS + b"1]}", b'{"a":' + b"9" * 5000 + b"}", "{}".encode("utf-16")],
)  # fmt: skip
def test_headers_that_are_none(data: bytes) -> None:
    """Guards against another exception than the one that readers expect."""
    with pytest.raises(FrameError):
        parse_header(data)


def test_random_bytes() -> None:
    """Guards against any bytes that raise another exception, or are read for ever."""
    rng = random.Random(7)
    valid = encode_frame({"verb": "save", "path": ["a", 1]}, b"payload")
    for _ in range(3000):
        data = bytearray(valid)
        for _ in range(rng.randint(1, 5)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            header, _ = read_frame(io.BytesIO(bytes(data)))
        except FrameError:
            continue
        assert isinstance(header, dict)


@pytest.mark.parametrize("size", [0, 1, MAX_PAYLOAD, MAX_PAYLOAD + 1, 3 * MAX_PAYLOAD + 5])
def test_streams(size: int) -> None:
    """Guards against bytes lost at the edges of chunks, and against an end that is not seen."""
    content, channel = random.Random(size).randbytes(size), io.BytesIO()
    write_stream(channel, io.BytesIO(content))
    channel.write(b"next")
    channel.seek(0)
    assert b"".join(read_stream(channel)) == content
    assert channel.read() == b"next"


def test_a_stream_in_pieces() -> None:
    """Guards against a reader that relies on how a socket cuts the bytes."""
    reading, writing = socket.socketpair()
    content = random.Random(5).randbytes(400_000)
    buffer = io.BytesIO()
    write_stream(buffer, io.BytesIO(content))

    def trickle() -> None:
        rest = buffer.getvalue()
        rng = random.Random(6)
        while rest:
            size = rng.choice([1, 7, 100, 60_000])
            writing.sendall(rest[:size])
            rest = rest[size:]

    thread = threading.Thread(target=trickle)
    thread.start()
    with reading, writing, reading.makefile("rb") as stream:
        assert b"".join(read_stream(cast("BinaryIO", stream))) == content
        thread.join()


@pytest.mark.parametrize(
    ("rest", "error"),
    [(encode_frame({"verb": "x"}), FrameError), (b"", ChannelClosed), (b"\0" * 7, ChannelClosed)],
)
def test_a_stream_that_is_interrupted(rest: bytes, error: type[Exception]) -> None:
    """Guards against half an object passing as a whole one."""
    channel = io.BytesIO(encode_frame({}, b"half") + rest)
    chunks = read_stream(channel)
    assert next(chunks) == b"half"
    with pytest.raises(error):
        next(chunks)
