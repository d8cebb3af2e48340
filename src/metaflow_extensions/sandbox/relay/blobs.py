"""Check, while it streams in, that a content-addressed blob is what its name says."""

from __future__ import annotations

import hashlib
import re
import zlib
from typing import Final

from ..errors import RelayError

_SHA1 = re.compile(r"[0-9a-f]{40}")
_SLICE: Final = 64 << 10  # compressed bytes at a time: what is left over after each output is copied
_OUTPUT: Final = 256 << 10
_MAX_MEMBERS: Final = 1024  # Metaflow writes one; each costs an inflate state for as few as 20 bytes


class BlobCheck:
    """Compares a blob's content with its key while holding at most a few hundred KiB.

    ``raw`` blobs are hashed as they are, others as ``gzip.GzipFile`` would read them: members one after the
    other, zero bytes after each. What GzipFile refuses is refused, and so are header flags it overlooks.
    ``max_inflated`` is in bytes of content and counts for raw blobs too.
    """

    def __init__(self, key_sha1_hex: str, raw: bool, max_inflated: int) -> None:
        if not _SHA1.fullmatch(key_sha1_hex):
            raise RelayError(f"{key_sha1_hex[:80]!r} is no blob's key; Metaflow names blobs by SHA-1")
        self._key = key_sha1_hex
        self._raw = raw
        self._max = max_inflated
        self._hash = hashlib.sha1(usedforsecurity=False)
        self._size = 0
        self._members = 0
        self._member: zlib._Decompress | None = None

    @property
    def size(self) -> int:
        """Bytes of content so far."""
        return self._size

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes as stored. Raises RelayError as soon as they cannot be accepted."""
        if self._raw:
            self._take(chunk)
            return
        view = memoryview(chunk)
        for start in range(0, len(view), _SLICE):
            self._inflate(bytes(view[start : start + _SLICE]))

    def finish(self) -> None:
        """Raise RelayError unless the content is complete and hashes to the key."""
        if self._member is not None:
            raise self._refuse("its gzip stream ends early")
        if self._hash.hexdigest() != self._key:
            raise self._refuse("its content hashes to another key")

    def _inflate(self, data: bytes) -> None:
        while data:
            if self._member is None:
                if self._members:  # zero padding may follow a member, never precede the first
                    data = data.lstrip(b"\0")
                    if not data:
                        return
                self._members += 1
                if self._members > _MAX_MEMBERS:
                    raise self._refuse(f"it has more than {_MAX_MEMBERS} gzip members")
                self._member = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
            member = self._member
            try:
                content = member.decompress(data, min(_OUTPUT, self._max - self._size + 1))
            except zlib.error as error:
                raise self._refuse(f"it is no gzip file ({error})") from None
            self._take(content)
            data = member.unconsumed_tail
            if member.eof:
                data = member.unused_data
                self._member = None
            elif not data and not content:
                return

    def _take(self, content: bytes) -> None:
        self._size += len(content)
        if self._size > self._max:
            raise self._refuse(f"its content is over {self._max} bytes")
        self._hash.update(content)

    def _refuse(self, cause: str) -> RelayError:
        return RelayError(f"blob {self._key} refused: {cause}; store artifacts through Metaflow")
