"""Streaming checks of content-addressed blobs, compared with what ``gzip.GzipFile`` reads."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import random
import tracemalloc
import zlib

import pytest

from metaflow_extensions.sandbox.errors import RelayError
from metaflow_extensions.sandbox.relay.blobs import BlobCheck

LIMIT = 1 << 20


def sha(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


def check(key: str, stored: bytes, *, raw: bool = False, limit: int = LIMIT, step: int = 1 << 16) -> None:
    blob = BlobCheck(key, raw, limit)
    for start in range(0, len(stored), step):
        blob.feed(stored[start : start + step])
    blob.finish()


def as_gzip_file(stored: bytes) -> bytes | None:
    """What Metaflow would read, or None when it would fail."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(stored), mode="rb") as source:
            return source.read()
    except (OSError, EOFError, zlib.error):
        return None


CONTENT = os.urandom(5000) + b"a" * 5000
MEMBER = gzip.compress(CONTENT)
OTHER = gzip.compress(b"more")
FULL_HEADER = b"\x1f\x8b\x08\x1c\0\0\0\0\0\x03\x02\0xxname\0comment\0" + MEMBER[10:]


@pytest.mark.parametrize("step", [1, 7, 1 << 16])
@pytest.mark.parametrize(
    "stored",
    [MEMBER, MEMBER + OTHER, MEMBER + b"\0" * 99, MEMBER + b"\0\0" + OTHER + b"\0", FULL_HEADER, b""],
    ids=["one", "two", "padded", "padded between", "full header", "empty"],
)
def test_reads_what_gzip_file_reads(stored: bytes, step: int) -> None:
    """Guards against refusing blobs that Metaflow can read, however they are cut on the way."""
    content = as_gzip_file(stored)
    assert content is not None
    check(sha(content), stored, step=step)


@pytest.mark.parametrize(
    "stored",
    [
        MEMBER + b"x",
        MEMBER + b"\0x",
        MEMBER[:-1],
        MEMBER[:5],
        MEMBER + OTHER[:4],
        MEMBER[:-8] + bytes(8),
        b"\0" + MEMBER,
        zlib.compress(CONTENT),
        CONTENT,
    ],
    ids=[
        "garbage",
        "late garbage",
        "cut",
        "cut header",
        "cut second",
        "crc",
        "leading zero",
        "zlib",
        "plain",
    ],
)
def test_refuses_what_gzip_file_refuses(stored: bytes) -> None:
    """Guards against accepting a blob that breaks, or changes, when Metaflow reads it."""
    assert as_gzip_file(stored) is None
    with pytest.raises(RelayError):
        check(sha(CONTENT), stored)


@pytest.mark.parametrize("raw", [True, False])
def test_content_must_hash_to_its_name(raw: bool) -> None:
    """Guards against storing a payload under another run's key."""
    stored = CONTENT if raw else MEMBER
    check(sha(CONTENT), stored, raw=raw)
    with pytest.raises(RelayError, match="another key"):
        check(sha(b"victim"), stored, raw=raw)


def test_compressed_bytes_do_not_count_as_content() -> None:
    """Guards against a blob that is right raw but would be unpacked into something else."""
    with pytest.raises(RelayError):
        check(sha(MEMBER), MEMBER)


@pytest.mark.parametrize("key", ["", "a" * 39, "A" * 40, "../" + "a" * 37, "a" * 40 + "\n"])
def test_key_must_be_a_digest(key: str) -> None:
    """Guards against names that are paths or that another spelling of a digest could collide with."""
    with pytest.raises(RelayError):
        BlobCheck(key, raw=True, max_inflated=1)


@pytest.mark.parametrize("raw", [True, False])
def test_limit_is_exact(raw: bool) -> None:
    """Guards against an off-by-one in the limit of content."""
    stored = CONTENT if raw else MEMBER
    check(sha(CONTENT), stored, raw=raw, limit=len(CONTENT))
    with pytest.raises(RelayError, match="over"):
        check(sha(CONTENT), stored, raw=raw, limit=len(CONTENT) - 1)


def test_bomb_is_stopped_without_inflating_it() -> None:
    """Guards against memory and time spent on a gzip bomb past the limit."""
    squeeze = zlib.compressobj(9, wbits=31)
    bomb = b"".join(squeeze.compress(bytes(1 << 20)) for _ in range(512)) + squeeze.flush()
    blob = BlobCheck(sha(b""), raw=False, max_inflated=LIMIT)
    tracemalloc.start()
    try:
        with pytest.raises(RelayError, match="over"):
            blob.feed(bomb)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert blob.size == LIMIT + 1
    assert peak < 2 << 20


def test_many_members_are_refused() -> None:
    """Guards against thousands of inflate states set up for a few bytes each."""
    with pytest.raises(RelayError, match="members"):
        check(sha(b""), gzip.compress(b"") * 2000)


def test_mutations_agree_with_gzip_file() -> None:
    """Guards against any stream that is accepted here and read as something else by Metaflow."""
    chance = random.Random(7)
    accepted = 0
    for _ in range(4000):
        stored = bytearray(
            b"".join(chance.choice([MEMBER[:30], OTHER, b"\0", FULL_HEADER, MEMBER]) for _ in range(3))
        )
        for _ in range(chance.randrange(3)):
            stored[chance.randrange(min(40, len(stored)))] = chance.randrange(256)
        content = as_gzip_file(bytes(stored))
        try:
            check(
                sha(content if content is not None else CONTENT), bytes(stored), step=chance.choice([3, 999])
            )
        except RelayError:
            continue
        assert content is not None
        accepted += 1
    assert accepted > 200
