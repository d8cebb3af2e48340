"""Homes for runtimes of this machine: each is one process's at a time, and keeps its images for the next.

Below the base directory ``0``, ``1``, … are homes, and ``0.lock``, … are locked by the process that has them.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from ...errors import BackendUnavailable

SETTING = "METAFLOW_SANDBOX_BOXLITE_HOME"


class Slot:
    """A home that is this process's until it is given back or the process ends."""

    def __init__(self, home: Path, lock: int) -> None:
        self.home = home
        self._lock = lock

    def release(self) -> None:
        """Let others have it."""
        os.close(self._lock)


def base(environ: Mapping[str, str] = os.environ) -> Path:
    """Where the homes are: chosen, or below the user's cache directory."""
    chosen = environ.get(SETTING)
    if chosen:
        return Path(chosen).absolute()
    cache = environ.get("XDG_CACHE_HOME")
    return Path(cache or Path.home() / ".cache").absolute() / "metaflow-sandbox" / "boxlite"


def take(directory: Path) -> Slot:
    """The first home that nobody has, made when all are taken. Raises BackendUnavailable."""
    try:
        _private(directory)
        homes = (take_home(directory / str(number)) for number in itertools.count())
        return next(home for home in homes if home)
    except OSError as error:
        raise BackendUnavailable(
            f"BoxLite's homes can't be in {directory}: {error}; set {SETTING}"
        ) from error


def take_home(home: Path) -> Slot | None:
    """That home, None while another has it."""
    # Not the SDK's own lock, which is held for as long as any handle of a box lives.
    lock = os.open(home.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    except BaseException:
        os.close(lock)
        raise
    _private(home)
    return Slot(home, lock)


def _private(directory: Path) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = directory.stat()
    if found.st_uid != os.geteuid():
        raise PermissionError(f"{directory} is not this user's")
    if stat.S_IMODE(found.st_mode) & 0o077:
        directory.chmod(0o700)  # values of secrets are in there, as they are
