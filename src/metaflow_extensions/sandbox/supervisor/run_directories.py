"""The private directories of runs: where they are made, which there are, whether their run still lives."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ..backends import owner

PREFIX = "metaflow-sandbox-run-"
CONTROL = "control"  # its socket
OWNERS = "owners"  # a file in it: the marks of its supervisor and its reaper, one a line
MAX_SOCKET_PATH = 107  # bytes
# The longest path of a socket below the directory for temporary files: a task's relay.
LONGEST = len(f"/{PREFIX}12345678/t0123456789abcdef-0123456789abcdef/relay")
SHORT = "/tmp"
KEPT = "kept-"  # a file for each kept sandbox, named by its id: until when, in seconds since the epoch
YOUNG = 60.0  # seconds in which a directory's owners may not have been written yet


def make() -> Path:
    """A new private directory, at a path short enough for sockets in it."""
    return Path(tempfile.mkdtemp(prefix=PREFIX, dir=_place()))


def _place() -> str:
    place = tempfile.gettempdir()
    return SHORT if len(os.fsencode(place)) > MAX_SOCKET_PATH - LONGEST else place


def note_owners(directory: Path, *pids: int) -> None:
    """Remember who removes it; as long as one of them lives, nobody else has to."""
    (directory / OWNERS).write_text("".join(f"{owner.mark(pid)}\n" for pid in pids))


def of_this_user() -> Iterator[Path]:
    """Every run's directory, the dead runs' included."""
    for path in sorted(Path(_place()).glob(f"{PREFIX}*")):
        with contextlib.suppress(FileNotFoundError):
            if path.lstat().st_uid == os.geteuid() and path.is_dir() and not path.is_symlink():
                yield path


def find(name: str) -> Path | None:
    """The directory of that name, None when it is gone."""
    return next((path for path in of_this_user() if path.name == name), None)


def lives(directory: Path) -> bool:
    """Whether somebody is left who will remove it."""
    try:
        return any(owner.lives(line) for line in (directory / OWNERS).read_text().split())
    except FileNotFoundError:
        # It is being made, or by another version.
        return _is_young(directory) or _is_listened_to(directory / CONTROL)


def _is_young(directory: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return time.time() - directory.stat().st_mtime < YOUNG
    return False


def _is_listened_to(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(str(path)) == 0


def remove(directory: Path) -> None:
    """Remove it; another may be removing it as well."""
    while directory.exists():
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(directory)
