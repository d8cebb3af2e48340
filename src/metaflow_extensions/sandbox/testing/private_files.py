"""Files below a directory that commands write to: reached without following a link that they planted."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from pathlib import Path, PurePosixPath

from ..errors import UnsupportedOption


def checked(path: PurePosixPath) -> PurePosixPath:
    """Return the path unless it is relative, climbs, or can't be a path at all (UnsupportedOption)."""
    if not path.is_absolute() or ".." in path.parts or "\0" in str(path):
        raise UnsupportedOption(f"{str(path)!r} must be an absolute path without '..' or NUL")
    return path


def copy_in(source: Path, root: Path, relative: PurePosixPath) -> None:
    """Copy a host file below root, making the directories above it; the copy is readable by everyone."""
    with source.open("rb") as reader:
        mode = stat.S_IMODE(os.fstat(reader.fileno()).st_mode) | 0o444
        directory = _directory(root, relative, make=True)
        try:
            # A fresh file: writing through what stands there could follow a link or block on a FIFO.
            if _exists(relative.name, directory):
                os.unlink(relative.name, dir_fd=directory)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            target = os.open(relative.name, flags, 0o600, dir_fd=directory)
        finally:
            os.close(directory)
        with os.fdopen(target, "wb") as writer:
            shutil.copyfileobj(reader, writer)
            os.fchmod(target, mode)


def copy_out(root: Path, relative: PurePosixPath, target: Path) -> None:
    """Copy a regular file from below root. Raises FileNotFoundError, or PermissionError for a link."""
    directory = _directory(root, relative, make=False)
    try:
        if not stat.S_ISREG(os.stat(relative.name, dir_fd=directory, follow_symlinks=False).st_mode):
            raise PermissionError(f"{relative} is not a regular file: only those are copied out of a sandbox")
        # Non-blocking, for a FIFO put there since the check above.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        source = os.open(relative.name, flags, dir_fd=directory)
    finally:
        os.close(directory)
    with os.fdopen(source, "rb") as reader, target.open("wb") as writer:
        shutil.copyfileobj(reader, writer)


def remove_tree(root: Path) -> None:
    """Remove a directory whatever permissions its owner left inside; one that is gone is fine."""
    try:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(root)
    except PermissionError:
        locked = [root]
        while locked:
            directory = locked.pop()
            directory.chmod(0o700)
            locked += [Path(entry) for entry in os.scandir(directory) if entry.is_dir(follow_symlinks=False)]
        shutil.rmtree(root)


def _directory(root: Path, relative: PurePosixPath, *, make: bool) -> int:
    """Open the directory that holds the file, component by component."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    current = os.open(root, flags)
    for name in relative.parts[:-1]:
        try:
            if make and not _exists(name, current):
                os.mkdir(name, 0o755, dir_fd=current)
            below = os.open(name, flags, dir_fd=current)
        except NotADirectoryError as error:  # what O_DIRECTORY says of a link, too
            raise PermissionError(f"{relative} leads through a link or a file at {name!r}") from error
        finally:
            os.close(current)
        current = below
    return current


def _exists(name: str, directory: int) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
