"""Files into a sandbox and out of it, over the streams of small commands, where nothing better is there."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from ..errors import UnsupportedOption
from .interface import Command, Process, Stream

MISSING, REFUSED = 3, 4
GET = f"""
import os, shutil, stat, sys
path = sys.argv[1]
try:
    if os.path.realpath(path) != os.path.normpath(path) or not stat.S_ISREG(os.lstat(path).st_mode):
        sys.exit({REFUSED} if os.path.lexists(path) else {MISSING})
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        shutil.copyfileobj(file, sys.stdout.buffer)
except FileNotFoundError:
    sys.exit({MISSING})
"""


def copy_out(start: Callable[[Command], Process], python: str, source: PurePosixPath, target: Path) -> None:
    """Copy a regular file out, with a Python inside; a link is not followed.

    Raises FileNotFoundError, or PermissionError for what is no regular file.
    """
    if not source.is_absolute() or "\0" in str(source):
        raise UnsupportedOption(f"{str(source)!r} must be an absolute path without NUL")
    process = start(Command([python, "-I", "-S", "-c", GET, str(source)]))
    with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as draft:
        try:
            said = b""
            for output in process.output():
                if output.stream is Stream.STDOUT:
                    draft.write(output.data)
                else:
                    said += output.data
            code = process.wait()
            if code == MISSING:
                raise FileNotFoundError(f"there is no {source} in the sandbox")
            if code:
                reason = said.decode(errors="replace")[-500:] or "only regular files are copied out"
                raise PermissionError(f"{source}: {reason}")
            Path(draft.name).replace(target)
        finally:
            Path(draft.name).unlink(missing_ok=True)


def check_target(target: PurePosixPath) -> None:
    """Raise UnsupportedOption for what a file can't be copied to."""
    if not target.is_absolute() or ".." in target.parts or "\0" in str(target) or not target.name:
        raise UnsupportedOption(f"{str(target)!r} must be an absolute path of a file without '..' or NUL")
