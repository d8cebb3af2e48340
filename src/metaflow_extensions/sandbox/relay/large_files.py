"""Large content as a file of the sandbox, where its provider passes that faster than a channel.

Paths are the guest's choice: they mean something inside only. What can't be passed goes by the channel.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path, PurePosixPath

from ..errors import RelayError, SandboxError
from ..guest.large_files import LARGE
from .services import Files


class NotPassed(Exception):
    """The file could not be read to its end."""


def content(files: Files | None, path: str) -> Generator[bytes]:
    """What the guest has put into a file. Raises NotPassed, or RelayError where there are no such files."""
    if files is None:
        raise RelayError(f"the file {path[:200]!r}: this sandbox passes none")
    try:
        yield from files.read(PurePosixPath(path))
    except (SandboxError, FileNotFoundError) as error:
        raise NotPassed(str(error)) from error


def passed(files: Files | None, source: Path, path: str | None) -> bool:
    """Whether a file is now where the guest waits for it; a small one is not."""
    if files is None or path is None or source.stat().st_size < LARGE:
        return False
    try:
        files.put(source, PurePosixPath(path))
    except SandboxError:
        return False
    return True
