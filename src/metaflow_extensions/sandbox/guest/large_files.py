"""Large content as a file of this sandbox, where the launcher passes files by its provider's own way."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import uuid
from typing import BinaryIO, Iterator, Optional

VARIABLE = "METAFLOW_SANDBOX_FILES"  # set where the launcher does
LARGE = 4 << 20  # bytes, from which on a file is faster than the channel
PIECE = 1 << 20  # bytes


def new_path() -> Optional[str]:
    """Where the launcher may put a file; None where it would not."""
    if VARIABLE not in os.environ:
        return None
    return os.path.join(tempfile.gettempdir(), "metaflow-%s" % uuid.uuid4().hex)


@contextlib.contextmanager
def as_file(source: BinaryIO) -> Iterator[Optional[str]]:
    """The path of a copy while it is there; None for what is small, or has no room on this sandbox's disk."""
    path = new_path() if size_of(source) >= LARGE else None
    start = source.tell()
    if path and not _copied(source, path):
        path = None
    try:
        yield path
    finally:
        source.seek(start)
        if path:
            _remove(path)


def _copied(source: BinaryIO, path: str) -> bool:
    try:
        with open(path, "xb") as copy:
            shutil.copyfileobj(source, copy, PIECE)
    except OSError:
        _remove(path)
        return False
    return True


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):  # it was not made, or the step has removed its directory
        os.unlink(path)


def size_of(source: BinaryIO) -> int:
    """Bytes from where it stands to its end."""
    place = source.tell()
    end = source.seek(0, os.SEEK_END)
    source.seek(place)
    return end - place
