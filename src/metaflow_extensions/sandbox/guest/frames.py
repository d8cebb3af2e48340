"""Length-prefixed frames between a guest and the relay: a JSON header, a payload, both capped.

A frame is eight bytes (header length and payload length, big-endian), the header as UTF-8 JSON,
and the payload. A stream of bytes is a run of frames with an empty header, ended by an empty one.
"""

from __future__ import annotations

import json
import struct
from typing import Any, BinaryIO, Dict, Iterator, Tuple

LENGTHS = struct.Struct("!II")
MAX_HEADER = 4 * 1024 * 1024  # bytes; a list of 10,000 paths fits
MAX_PAYLOAD = 1024 * 1024  # bytes
MAX_PARTS = 200_000  # objects and lists in a header: each takes up to 30 times its bytes once parsed


class FrameError(Exception):
    """The bytes are not a frame that we accept."""


class ChannelClosed(FrameError):
    """The other side has gone."""


def read_exact(stream: BinaryIO, size: int) -> bytes:
    """Exactly ``size`` bytes. Raises ChannelClosed when the stream ends before."""
    data = stream.read(size)
    if data is None or len(data) != size:
        raise ChannelClosed("the relay's channel was closed")
    return data


def read_lengths(stream: BinaryIO) -> Tuple[int, int]:
    """The sizes of the next frame's header and payload, in bytes. Raises FrameError over the limits."""
    header_size, payload_size = LENGTHS.unpack(read_exact(stream, LENGTHS.size))
    if header_size > MAX_HEADER or payload_size > MAX_PAYLOAD:
        raise FrameError("a frame of %d + %d bytes is over the limit" % (header_size, payload_size))
    return header_size, payload_size


def read_frame(stream: BinaryIO) -> Tuple[Dict[str, Any], bytes]:
    """The next frame as (header, payload); a stream's frames have an empty header."""
    header_size, payload_size = read_lengths(stream)
    header = parse_header(read_exact(stream, header_size)) if header_size else {}
    return header, read_exact(stream, payload_size) if payload_size else b""


def parse_header(data: bytes) -> Dict[str, Any]:
    """The JSON object in ``data``. Raises FrameError for anything else, too deep or too large included."""
    if data.count(b"{") + data.count(b"[") > MAX_PARTS:
        raise FrameError("a frame's header has over %d parts" % MAX_PARTS)
    try:
        header = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise FrameError("a frame's header is not JSON") from error
    if not isinstance(header, dict):
        raise FrameError("a frame's header is not an object")
    return header


def encode_frame(header: Dict[str, Any], payload: bytes = b"") -> bytes:
    """One frame, ready to be written. Raises FrameError when it is over the limits."""
    encoded = json.dumps(header, separators=(",", ":")).encode("utf-8") if header else b""
    if len(encoded) > MAX_HEADER or len(payload) > MAX_PAYLOAD:
        raise FrameError("a frame of %d + %d bytes is over the limit" % (len(encoded), len(payload)))
    return LENGTHS.pack(len(encoded), len(payload)) + encoded + payload


def write_stream(target: BinaryIO, source: BinaryIO) -> None:
    """Send everything left in ``source`` as a stream of frames."""
    while True:
        chunk = source.read(MAX_PAYLOAD)
        target.write(LENGTHS.pack(0, len(chunk)))
        if not chunk:
            return
        target.write(chunk)


def read_stream(stream: BinaryIO) -> Iterator[bytes]:
    """The chunks of a stream of frames, to its end."""
    while True:
        header, chunk = read_frame(stream)
        if header:
            raise FrameError("a stream of bytes was interrupted by a header")
        if not chunk:
            return
        yield chunk
