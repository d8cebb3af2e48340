"""What a sandbox that shares no directory with the launcher is started with: ``python -c`` of this text.

Tar archives come over stdin, each behind its length, the last one followed by a length of 0; they hold what
is mounted elsewhere. From then on the guest has stdin and stdout to itself.
"""

from __future__ import annotations

import os
import struct
import sys
from typing import List

SIZE = struct.Struct("!Q")
MOUNTED_AT = "/run/metaflow-sandbox"
MAX_SOCKET_PATH = 103  # bytes, macOS's; Linux has four more


def main(words: List[str]) -> int:
    """Unpack, and run the guest with ``words``, where paths below MOUNTED_AT become the unpacked ones."""
    # Here, because the launcher imports this module for its constants.
    import tarfile
    import tempfile

    place = os.path.join(os.environ.get("TMPDIR", "/tmp"), "metaflow-sandbox")
    os.mkdir(place, 0o700)
    while True:
        (size,) = SIZE.unpack(read(SIZE.size))
        if not size:
            break
        source = Archive(size)
        with tarfile.open(fileobj=source, mode="r|gz" if source.is_compressed() else "r|") as archive:  # type: ignore[call-overload]
            # The launcher's own archive; newer Pythons warn where no filter is named.
            archive.extraction_filter = getattr(tarfile, "fully_trusted_filter", None)
            archive.extractall(place)  # noqa: S202
        source.rest()
    relay = os.path.join(place, "relay")
    if len(os.fsencode(relay)) > MAX_SOCKET_PATH:
        relay = os.path.join(tempfile.mkdtemp(dir="/tmp"), "relay")
    # Metaflow's own default, in /tmp, is every user's where /tmp is the launcher's.
    os.environ.setdefault("METAFLOW_CLIENT_CACHE_PATH", os.path.join(place, "client"))
    for name, value in os.environ.items():
        os.environ[name] = value.replace(MOUNTED_AT + "/relay", relay).replace(MOUNTED_AT + "/", place + "/")
    sys.path.insert(0, place)
    from guest import stdio

    code: int = stdio.main([word.replace(MOUNTED_AT + "/", place + "/") for word in words], relay)
    return code


class Archive:
    """So many bytes of stdin as a file; some are large, so that none is held whole."""

    def __init__(self, size: int) -> None:
        self._left = size
        self._ahead = b""

    def is_compressed(self) -> bool:
        """Whether it begins as gzip does (RFC 1952)."""
        self._ahead = self.read(2)
        return self._ahead == b"\x1f\x8b"

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
