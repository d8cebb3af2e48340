"""Files into a sandbox and out of it over the streams of small commands, which follow no link."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from ..errors import SandboxLost, UnsupportedOption
from .interface import Command, Process, Stream

Start = Callable[[Command], Process]
PYTHON = "python3"  # of the image
CHUNK = 64 * 1024  # bytes
MISSING, REFUSED = 3, 4
PUT = """
import os, shutil, sys
target, mode = sys.argv[1], int(sys.argv[2])
os.makedirs(os.path.dirname(target), exist_ok=True)
draft = target + ".draft"
with open(draft, "xb") as file:
    shutil.copyfileobj(sys.stdin.buffer, file)
os.chmod(draft, mode)
os.replace(draft, target)
"""
CHECK = f"""
import os, stat, sys
path = sys.argv[1]
try:
    if os.path.realpath(path) != os.path.normpath(path) or not stat.S_ISREG(os.lstat(path).st_mode):
        sys.exit({REFUSED} if os.path.lexists(path) else {MISSING})
except FileNotFoundError:
    sys.exit({MISSING})
"""
SIZE = f"""{CHECK}
print(os.lstat(path).st_size)
"""
GET = f"""{CHECK}
import shutil
try:
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        shutil.copyfileobj(file, sys.stdout.buffer)
except FileNotFoundError:
    sys.exit({MISSING})
"""


def check_target(target: PurePosixPath) -> None:
    """Raise UnsupportedOption for what can't be the path of a file that is put."""
    if not target.is_absolute() or ".." in target.parts or "\0" in str(target) or not target.name:
        raise UnsupportedOption(f"{str(target)!r} must be an absolute path of a file without '..' or NUL")


def mode_of(source: Path) -> int:
    """Of the copy: readable by everyone, executable where the source is."""
    return 0o755 if source.stat().st_mode & 0o100 else 0o644


def python(program: str, *arguments: str, stdin: bool = False) -> Command:
    """A command that runs a program of the standard library."""
    return Command([PYTHON, "-I", "-S", "-c", program, *arguments], stdin=stdin)


def put(start: Start, source: Path, target: PurePosixPath) -> None:
    """Copy a file to an absolute path inside. Raises UnsupportedOption for another."""
    with source.open("rb") as file:
        check_target(target)
        process = start(python(PUT, str(target), str(mode_of(source)), stdin=True))
        with contextlib.suppress(SandboxLost):  # how it ended says more
            while data := file.read(CHUNK):
                process.send(data)
        process.send(b"")
    said = b"".join(output.data for output in process.output())
    if process.wait():
        raise UnsupportedOption(f"{target} can't be written inside: {said.decode(errors='replace')[-500:]}")


def get(
    start: Start,
    source: PurePosixPath,
    target: Path,
    read: Callable[[PurePosixPath], Iterator[bytes]] | None = None,
) -> None:
    """Copy a regular file out. Raises FileNotFoundError, or PermissionError for what is none.

    ``read`` gives its content, where there is a faster way than the command's output.
    """
    if not source.is_absolute() or "\0" in str(source):
        raise UnsupportedOption(f"{str(source)!r} must be an absolute path without NUL")
    process = start(python(SIZE if read else GET, str(source)))
    with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as draft:
        try:
            said, size = b"", b""
            for output in process.output():
                if output.stream is Stream.STDOUT and read:
                    size += output.data
                elif output.stream is Stream.STDOUT:
                    draft.write(output.data)
                else:
                    said += output.data
            code = process.wait()
            if code == MISSING:
                raise FileNotFoundError(f"there is no {source} in the sandbox")
            if code:
                reason = said.decode(errors="replace")[-500:] or "only regular files are copied out"
                raise PermissionError(f"{source}: {reason}")
            if read and size.strip() != b"0":
                draft.writelines(read(source))
                draft.flush()
            Path(draft.name).replace(target)
        finally:
            Path(draft.name).unlink(missing_ok=True)
