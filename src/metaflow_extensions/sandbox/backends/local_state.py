"""What a local backend remembers about its sandboxes on disk, so that any process of the user can end them.

Below the base directory each sandbox has one of its own, named by its id:
info.json        labels and time of creation
groups.json      its cgroups, where it has any
processes/<pid>  start time of that process, so that a reused pid is never killed
files/<name>     copies of files that were put
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from ..errors import BackendUnavailable, SandboxLost
from .cgroups import remove_paths
from .interface import SandboxInfo
from .local_processes import end, end_named, start_time

_ID = re.compile(r"sbx-[0-9a-f]{8}\Z")


def base_directory(environ: Mapping[str, str] = os.environ) -> Path:
    """The private directory of this user, made when absent.

    Raises BackendUnavailable when it is a link, someone else's, or open to others.
    """
    uid = os.geteuid()
    runtime = environ.get("XDG_RUNTIME_DIR")
    # After su or sudo the variable still names another user's directory.
    if runtime and _owner(runtime) == uid:
        base = Path(runtime, "metaflow-sandbox")
    elif sys.platform == "darwin":
        # Its temporary directories have names too long for a unix socket further below.
        base = Path.home() / ".metaflow-sandbox"
    else:
        base = Path(tempfile.gettempdir(), f"metaflow-sandbox-{uid}")
    with contextlib.suppress(FileExistsError):
        base.mkdir(mode=0o700)
    found = base.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != uid or found.st_mode & 0o077:
        raise BackendUnavailable(
            f"{base} must be a directory of uid {uid} with mode 0700, which it is not: "
            "remove it or set TMPDIR"
        )
    return base


def state_directory(backend: str) -> Path:
    """Where the sandboxes of a backend are remembered, made when absent."""
    directory = base_directory() / backend
    directory.mkdir(mode=0o700, exist_ok=True)
    return directory


class LocalState:
    """The directory of one sandbox."""

    def __init__(self, base: Path, sandbox_id: str) -> None:
        self.directory = base / sandbox_id
        self.id = sandbox_id

    @classmethod
    def unused_id(cls, base: Path) -> str:
        """An id like ``sbx-1a2b3c4d`` that no sandbox below the base directory has."""
        while (base / (sandbox_id := cls.random_id())).exists():
            pass
        return sandbox_id

    @staticmethod
    def random_id() -> str:
        """An id like ``sbx-1a2b3c4d``."""
        return f"sbx-{os.urandom(4).hex()}"

    @staticmethod
    def is_id(sandbox_id: str) -> bool:
        """Whether it looks like an id; others are paths, patterns or options to whom they are given."""
        return bool(_ID.match(sandbox_id))

    @classmethod
    def create(cls, base: Path, labels: Mapping[str, str], sandbox_id: str | None = None) -> LocalState:
        """Make the directory of a new sandbox. Raises FileExistsError when another has the id."""
        state = cls(base, sandbox_id or cls.unused_id(base))
        state.directory.mkdir(mode=0o700)
        try:
            for name in ("processes", "files"):
                (state.directory / name).mkdir()
            # Last: a directory with a readable info.json is a whole one.
            state.keep("info.json", json.dumps({"labels": dict(labels), "created": time.time()}))
        except OSError:  # a full disk
            shutil.rmtree(state.directory)
            raise
        return state

    @classmethod
    def all(cls, base: Path) -> Iterator[LocalState]:
        """Every sandbox below the base directory."""
        for entry in sorted(base.iterdir()):
            if cls.is_id(entry.name):
                yield cls(base, entry.name)

    @classmethod
    def described(cls, base: Path, labels: Mapping[str, str]) -> Iterator[SandboxInfo]:
        """Sandboxes below the base directory that have all these labels, also those whose launcher died."""
        for state in cls.all(base):
            info = state.info()
            if info and labels.items() <= info.labels.items():
                yield info

    @classmethod
    def find(cls, base: Path, sandbox_id: str) -> LocalState | None:
        """The sandbox of that id; None for any other string, paths included."""
        if not cls.is_id(sandbox_id) or not (base / sandbox_id).is_dir():
            return None
        return cls(base, sandbox_id)

    def info(self) -> SandboxInfo | None:
        """Labels and creation; None while it is being made or removed."""
        try:
            kept = json.loads((self.directory / "info.json").read_text())
            return SandboxInfo(self.id, kept["labels"], kept["created"])
        except FileNotFoundError:
            return None

    def exists(self) -> bool:
        """Whether nobody destroyed it."""
        return (self.directory / "processes").is_dir()

    def record(self, pid: int) -> None:
        """Remember a process that nobody has waited for. Raises SandboxLost when the sandbox is gone."""
        try:
            self.keep(f"processes/{pid}", start_time(pid))
        except FileNotFoundError as error:
            raise SandboxLost(f"sandbox {self.id} was closed or destroyed: open a new one") from error

    def forget(self, pid: int) -> None:
        """Forget a process that has been waited for."""
        (self.directory / "processes" / str(pid)).unlink(missing_ok=True)

    def keep_file(self, source: Path) -> Path:
        """Copy a file and its execute permission into the state; returns the copy."""
        try:
            number, name = tempfile.mkstemp(dir=self.directory / "files")
        except FileNotFoundError as error:
            raise SandboxLost(f"sandbox {self.id} was closed or destroyed: open a new one") from error
        os.close(number)
        copy = Path(name)
        shutil.copyfile(source, copy)
        copy.chmod(0o755 if source.stat().st_mode & 0o100 else 0o644)
        return copy

    def keep_groups(self, paths: Iterable[Path]) -> None:
        """Remember cgroups, which outlive a launcher that is killed."""
        self.keep("groups.json", json.dumps([str(path) for path in paths]))

    def keep(self, name: str, text: str) -> None:
        """Write a file of the state, whole or not at all, whenever this process is killed."""
        draft = self.directory / f"{Path(name).name}.draft"
        draft.write_text(text)
        draft.rename(self.directory / name)

    def end_processes(self) -> None:
        """Kill every remembered process and wait for it; from then on none is remembered any more."""
        with contextlib.suppress(FileNotFoundError):
            # First, so that a sandbox being destroyed accepts no further process.
            (self.directory / "processes").rename(self.directory / "ending")
        with contextlib.suppress(FileNotFoundError):
            # In order of start: a supervisor of processes that reports their end goes before them.
            for entry in sorted((self.directory / "ending").iterdir(), key=lambda entry: int(entry.name)):
                end(int(entry.name), entry.read_text())

    def destroy(self, name: str | None = None) -> None:
        """End its processes, remove its cgroups and the directory; idempotent.

        ``name`` is the first argument of processes that may run without having been remembered.
        """
        self.end_processes()
        if name:
            end_named(name)
        with contextlib.suppress(FileNotFoundError):
            remove_paths(map(Path, json.loads((self.directory / "groups.json").read_text())))
        # Two that destroy it at once take files from under each other.
        while self.directory.exists():
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(self.directory)


def _owner(directory: str) -> int | None:
    try:
        found = os.stat(directory)  # noqa: PTH116 - one call for both existence and owner
    except OSError:
        return None
    return found.st_uid if stat.S_ISDIR(found.st_mode) else None
