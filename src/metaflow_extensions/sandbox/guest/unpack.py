"""What a sandbox that shares no directory with the launcher is started with: ``python -c`` of this text.

Tar archives come over stdin, each behind its length, the last one followed by a length of 0; they hold what
is mounted elsewhere. From then on the guest has stdin and stdout to itself. All but those that are compressed
as gzip does are read here: tarfile takes four times as long.
"""

from __future__ import annotations

import os
import struct
import sys

# What type checkers read as typing's own; every task waits for what is imported.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Set

BLOCK = 512  # bytes: of a header, and what contents are filled up to
FILE, OLD_FILE, HARD_LINK, LINK, FOLDER, LONG_NAME, LONG_LINK = b"0", b"\0", b"1", b"2", b"5", b"L", b"K"
SIZE = struct.Struct("!Q")
MOUNTED_AT = "/run/metaflow-sandbox"
# How what is compressed begins (RFC 1952; RFC 1950 at zlib's usual level).
GZIP, ZLIB = b"\x1f\x8b", b"x\x9c"
MAX_SOCKET_PATH = 103  # bytes, macOS's; Linux has four more


def main(words: List[str]) -> int:
    """Unpack, and run the guest with ``words``, where paths below MOUNTED_AT become the unpacked ones."""
    place = os.path.join(os.environ.get("TMPDIR", "/tmp"), "metaflow-sandbox")
    os.mkdir(place, 0o700)
    while True:
        (size,) = SIZE.unpack(read(SIZE.size))
        if not size:
            break
        source = Archive(size)
        begin = source.begin()
        if begin == GZIP:
            extract_compressed(source, place)
        else:
            content = source.read(size)
            extract(inflated(content) if begin == ZLIB else content, place)
    relay = os.path.join(place, "relay")
    if len(os.fsencode(relay)) > MAX_SOCKET_PATH:
        import tempfile

        relay = os.path.join(tempfile.mkdtemp(dir="/tmp"), "relay")
    # Metaflow's own default, in /tmp, is every user's where /tmp is the launcher's.
    os.environ.setdefault("METAFLOW_CLIENT_CACHE_PATH", os.path.join(place, "client"))
    for name, value in os.environ.items():
        os.environ[name] = value.replace(MOUNTED_AT + "/relay", relay).replace(MOUNTED_AT + "/", place + "/")
    sys.path.insert(0, place)
    from guest import stdio

    code: int = stdio.main([word.replace(MOUNTED_AT + "/", place + "/") for word in words], relay)
    return code


def inflated(content: bytes) -> bytes:
    """An archive as it was before it was sent."""
    import zlib

    return zlib.decompress(content)


def extract(archive: bytes, place: str) -> None:
    """Make the files of the launcher's own archive (GNU's format) below ``place``, of this user."""
    at, name, target = 0, b"", b""
    made: Set[bytes] = set()
    while archive[at : at + 1].strip(b"\0"):
        header = archive[at : at + BLOCK]
        kind, size = header[156:157], number(header[124:136])
        at += BLOCK
        content = memoryview(archive)[at : at + size]
        at += -(-size // BLOCK) * BLOCK
        if kind == LONG_NAME:
            name = text(content)
        elif kind == LONG_LINK:
            target = text(content)
        else:
            path = os.path.join(os.fsencode(place), name or text(header[:100]))
            above = os.path.dirname(path)
            if above not in made:
                os.makedirs(above, exist_ok=True)
                made.add(above)
            make(kind, path, target or text(header[157:257]), content, header, place)
            name = target = b""


def make(kind: bytes, path: bytes, target: bytes, content: memoryview, header: bytes, place: str) -> None:
    """One member: a file as old as the original, by which its bytecode is known to be its own."""
    mode = number(header[100:108]) & 0o777
    if kind == FOLDER:
        os.makedirs(path, exist_ok=True)
        os.chmod(path, mode | 0o700)
        return
    if kind == LINK:
        os.symlink(target, path)
    elif kind == HARD_LINK:
        os.link(os.path.join(os.fsencode(place), target), path)
    elif kind in (FILE, OLD_FILE):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        while content:
            content = content[os.write(descriptor, content) :]
        os.fchmod(descriptor, mode)
        os.utime(descriptor, (number(header[136:148]),) * 2)
        os.close(descriptor)
    else:
        raise SystemExit("the code holds what is neither a file nor a link: %r" % path)


def text(field: bytes | memoryview) -> bytes:
    """Up to the first NUL."""
    return bytes(field).partition(b"\0")[0]


def number(field: bytes) -> int:
    """Octal digits, or a binary number where they would not do."""
    if field[0] & 0x80:
        return int.from_bytes(field[1:], "big")
    return int(text(field).strip() or b"0", 8)


def extract_compressed(source: Archive, place: str) -> None:
    """The same with tarfile, which inflates as it goes: what is sent so may be large."""
    import tarfile

    with tarfile.open(fileobj=source, mode="r|gz") as archive:  # type: ignore[call-overload]
        # The launcher's own archive; newer Pythons warn where no filter is named.
        archive.extraction_filter = getattr(tarfile, "fully_trusted_filter", None)
        archive.extractall(place)  # noqa: S202
    source.rest()


class Archive:
    """So many bytes of stdin as a file; some are large, so that none is held whole."""

    def __init__(self, size: int) -> None:
        self._left = size
        self._ahead = b""

    def begin(self) -> bytes:
        """The first two bytes, by which it is known whether it is compressed."""
        self._ahead = self.read(2)
        return self._ahead

    def read(self, size: int) -> bytes:
        """At most so many bytes, all of them unless it ends."""
        ahead, self._ahead = self._ahead[:size], self._ahead[size:]
        count = min(size - len(ahead), self._left)
        self._left -= count
        return ahead + read(count)

    def rest(self) -> None:
        """Read what is behind the archive's end."""
        while self.read(1 << 20):
            pass


def read(size: int) -> bytes:
    """Exactly so many bytes of stdin, and none further."""
    data = bytearray()
    while len(data) < size:
        part = os.read(0, min(size - len(data), 1 << 20))
        if not part:
            raise SystemExit("the launcher has gone before the code had arrived")
        data += part
    return bytes(data)


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))
