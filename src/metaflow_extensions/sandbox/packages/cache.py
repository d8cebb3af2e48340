"""The cache of environments and wheels, shared by all runs of a user.

environments/KEY          an environment; KEY.json what it holds, its time that of the last use
environments/KEY.tar.gz   the same for sandboxes that nothing can be mounted into
environments/KEY.lock     held shared by who uses it, alone by who makes or removes it
environments/KEY.draft-*  one that is being made, or was when its maker was killed
wheels/SHA256/NAME        a wheel
resolved/HASH.json        an answer of uv
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ..errors import PackagesFailed, StartFailed
from .lock import write_whole

SETTING = "METAFLOW_SANDBOX_CACHE"
POLL = 0.05  # seconds between looks at whether another has finished
STALE = 24 * 3600.0  # seconds after which an unnamed draft is nobody's


@dataclass(frozen=True)
class Entry:
    """One thing that can be removed; ``size`` in bytes, ``used`` in seconds since the epoch."""

    kind: str
    name: str
    size: int
    used: float
    holds: str


class PackageCache:
    """One directory. Its methods raise PackagesFailed where it can't be used or is full."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._environments = directory / "environments"
        self.wheels = directory / "wheels"
        self._packing = threading.Lock()

    def resolved(self, name: str | None) -> Path | None:
        """Where an answer of uv is kept."""
        return self.directory / "resolved" / f"{name}.json" if name else None

    def keep_resolved(self, path: Path, text: str) -> None:
        """Keep an answer of uv."""
        self._make(path.parent)
        write_whole(path, text)

    @contextlib.contextmanager
    def environment(
        self, key: str, facts: Mapping[str, Any], make: Callable[[Path], None], cancelled: Callable[[], bool]
    ) -> Iterator[Path]:
        """The environment's directory, which stays as long as the context; ``make`` fills it if need be.

        Whoever comes meanwhile waits. Raises what ``make`` raises, and StartFailed for a cancelled wait.
        """
        with self._locked(key) as lock:
            place = self._environments / key
            while True:
                _await(lock, fcntl.LOCK_SH, cancelled)
                if place.exists():
                    break
                fcntl.flock(lock, fcntl.LOCK_UN)
                _await(lock, fcntl.LOCK_EX, cancelled)
                if not place.exists():
                    self._make_environment(key, facts, make)
            with self.writing():
                os.utime(self._facts(key))
            yield place

    def archive(self, key: str, make: Callable[[Path, Path], None]) -> Path:
        """The environment as an archive, which ``make(environment, file)`` writes if there is none."""
        path = self._environments / f"{key}.tar.gz"
        with self._packing, self.writing():
            if not path.exists():
                number, draft = tempfile.mkstemp(prefix=f"{key}.draft-", dir=self._environments)
                os.close(number)
                try:
                    make(self._environments / key, Path(draft))
                    Path(draft).rename(path)
                except BaseException:
                    Path(draft).unlink()
                    raise
        return path

    def entries(self) -> list[Entry]:
        """All environments and wheels, those that were not used for longest first."""
        found = []
        for path in self._listed(self._environments, "*.json"):
            with contextlib.suppress(FileNotFoundError, ValueError, KeyError):  # being removed
                facts = json.loads(path.read_text())
                archive = self._environments / f"{path.stem}.tar.gz"
                size = facts["size"] + (archive.stat().st_size if archive.exists() else 0)
                holds = f"Python {facts['python']}: {' '.join(facts['packages']) or 'nothing'}"
                found.append(Entry("environment", path.stem, size, path.stat().st_mtime, holds))
        for path in self._listed(self.wheels, "*/*.whl"):
            with contextlib.suppress(FileNotFoundError):
                facts_of = path.stat()
                name = path.parent.name
                found.append(Entry("wheel", name, facts_of.st_size, facts_of.st_mtime, path.name))
        return sorted(found, key=lambda entry: entry.used)

    def remove(self, entry: Entry) -> bool:
        """Remove it; False while it is in use."""
        if entry.kind == "wheel":
            shutil.rmtree(self.wheels / entry.name, ignore_errors=True)
            return True
        with self._locked(entry.name) as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            place = self._environments / entry.name
            # Out of sight first: what is half removed is no environment any more.
            draft = Path(tempfile.mkdtemp(prefix=f"{entry.name}.draft-", dir=self._environments))
            with contextlib.suppress(FileNotFoundError):
                place.rename(draft / "removed")
            self._facts(entry.name).unlink(missing_ok=True)
            (self._environments / f"{entry.name}.tar.gz").unlink(missing_ok=True)
            self._remove_drafts(entry.name)
            return True

    def shrink(self, size: int) -> list[Entry]:
        """Remove what was not used for longest until the rest is at most ``size`` bytes; what was removed."""
        self.tidy()
        entries = self.entries()
        total = sum(entry.size for entry in entries)
        removed = []
        for entry in entries:
            if total <= size:
                break
            if self.remove(entry):
                total -= entry.size
                removed.append(entry)
        return removed

    def tidy(self) -> None:
        """Remove what makers that were killed have left, and answers of uv that are out of date."""
        for path in self._listed(self._environments, "*.draft-*"):
            key = path.name.partition(".")[0]
            with self._locked(key) as lock, contextlib.suppress(BlockingIOError):  # it is being made
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._remove_drafts(key)
        for path in [*self._listed(self.wheels, ".*"), *self._listed(self.directory / "resolved", "*")]:
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > STALE:
                    path.unlink()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Say what mends it when the disk is full, or the directory is not ours to write to."""
        try:
            yield
        except OSError as error:
            raise PackagesFailed(
                f"the cache of packages in {self.directory} can't be written to: {error}. "
                f"Free some space there (metaflow-sandbox cache prune), or name another one with {SETTING}"
            ) from error

    def _make_environment(self, key: str, facts: Mapping[str, Any], make: Callable[[Path], None]) -> None:
        self._remove_drafts(key)
        with self.writing():
            draft = Path(tempfile.mkdtemp(prefix=f"{key}.draft-", dir=self._environments))
            try:
                draft.chmod(0o755)
                make(draft)
                size = sum(path.lstat().st_size for path in draft.rglob("*"))
                write_whole(self._facts(key), json.dumps({**facts, "size": size}))
                draft.rename(self._environments / key)
            except BaseException:
                self._remove_drafts(key)
                raise

    def _remove_drafts(self, key: str) -> None:
        """Of a key whose lock is held alone."""
        for path in self._listed(self._environments, f"{key}.draft-*"):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def _facts(self, key: str) -> Path:
        return self._environments / f"{key}.json"

    @contextlib.contextmanager
    def _locked(self, key: str) -> Iterator[IO[str]]:
        """The lock's file, open; locks of it end with the context, or with this process."""
        with self.writing():
            self._make(self._environments)
            lock = (self._environments / f"{key}.lock").open("w")
        with lock:
            yield lock

    def _make(self, folder: Path) -> None:
        """Make the folder. Raises PackagesFailed when the cache is one that others could have filled."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = self.directory.stat()
        if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o022:
            raise PackagesFailed(
                f"{self.directory} must be a directory of uid {os.geteuid()} that no one else can write to, "
                f"which it is not: chmod go-w {self.directory}, or name another with {SETTING}"
            )

    @staticmethod
    def _listed(folder: Path, pattern: str) -> list[Path]:
        return sorted(folder.glob(pattern)) if folder.is_dir() else []


def default_directory(chosen: str | None) -> Path:
    """What METAFLOW_SANDBOX_CACHE names, else a directory of the user's cache."""
    if chosen:
        return Path(chosen).expanduser().absolute()
    below = os.environ.get("XDG_CACHE_HOME")
    return (Path(below) if below else Path.home() / ".cache") / "metaflow-sandbox"


def _await(lock: IO[str], kind: int, cancelled: Callable[[], bool]) -> None:
    while True:
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
        except BlockingIOError:  # noqa: PERF203 -- that is the loop
            if cancelled():
                raise StartFailed("the task was cancelled while it waited for its packages") from None
            time.sleep(POLL)
        else:
            return
