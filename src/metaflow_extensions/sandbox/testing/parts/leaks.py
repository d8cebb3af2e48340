"""What a test leaves behind: processes, mounts, files, descriptors and threads."""

from __future__ import annotations

import contextlib
import ctypes
import fnmatch
import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

WATCHED = frozenset({"processes", "mounts", "files", "descriptors", "threads"})
PATIENCE = 60.0  # seconds that what ends on its own may take: a warden first imports its backend
_PROC = Path("/proc")
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


@dataclass(frozen=True)
class Snapshot:
    """What there is now, by kind; each thing is one line of text."""

    seen: dict[str, set[str]] = field(default_factory=dict)

    @classmethod
    def take(cls, files: Path, keeps: tuple[str, ...]) -> Snapshot:
        """Look around; ``files`` is where temporary files go, ``keeps`` are patterns of what may stay."""
        return cls(
            {
                "processes": {f"{pid} {_name(pid)}" for pid, state in descendants() if state not in "ZX"},
                "mounts": _lines(_PROC / "self/mountinfo"),
                "files": _files(files, keeps),
                "descriptors": set(_descriptors()),
                "threads": {f"{thread.ident} {thread.name}" for thread in threading.enumerate()},
            }
        )

    def new_since(self, before: Snapshot, watched: frozenset[str]) -> dict[str, list[str]]:
        """What is here and was not before, by kind."""
        new = {kind: sorted(self.seen[kind] - before.seen[kind]) for kind in sorted(watched)}
        return {kind: things for kind, things in new.items() if things}


def leaked(
    before: Snapshot, files: Path, keeps: tuple[str, ...], watched: frozenset[str]
) -> dict[str, list[str]]:
    """What is still here that was not before, once it has had time to go."""
    deadline = time.monotonic() + PATIENCE
    while True:
        new = Snapshot.take(files, keeps).new_since(before, watched)
        if not new or time.monotonic() > deadline:
            if "processes" in new:
                new["processes"] = [f"{line} {_doing(int(line.split()[0]))}" for line in new["processes"]]
            return new
        time.sleep(0.02)


@contextlib.contextmanager
def adopting_orphans() -> Iterator[None]:
    """Become the parent of orphaned descendants (Linux), so that none gets out of sight, and bury them."""
    if not sys.platform.startswith("linux"):
        yield
        return
    own = {pid for pid, _ in descendants()}
    prctl = ctypes.CDLL(None).prctl
    prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
        for pid, state in list(descendants()):
            if state == "Z" and pid not in own:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)


def descendants() -> Iterator[tuple[int, str]]:
    """The process id and the state letter of every process below this one; none where there is no /proc."""
    children: dict[int, list[tuple[int, str]]] = {}
    for entry in _PROC.glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            # The name in parentheses may hold anything; the state and the parent come after it.
            state, parent = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
            children.setdefault(int(parent), []).append((int(entry.name), state))
    waiting = [os.getpid()]
    while waiting:
        for pid, state in children.get(waiting.pop(), ()):
            waiting.append(pid)
            yield pid, state


def command_lines() -> str:
    """Every command line of this machine that can be read, as one text."""
    texts = []
    for entry in _PROC.glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            texts.append((entry / "cmdline").read_bytes().decode(errors="replace"))
    return "\n".join(texts)


def _name(pid: int) -> str:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return (_PROC / str(pid) / "cmdline").read_bytes()[:200].replace(b"\0", b" ").decode(errors="replace")
    return "(gone)"


def _doing(pid: int) -> str:
    """Its state, the time that it took on a processor, and where in the kernel it waits."""
    with contextlib.suppress(OSError):
        fields = (_PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
        seconds = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return f"({fields[0]}, {seconds:.2f} s, {(_PROC / str(pid) / 'wchan').read_text()})"
    return "(gone)"


def _lines(path: Path) -> set[str]:
    return set(path.read_text(errors="replace").splitlines()) if path.exists() else set()


def _files(root: Path, keeps: tuple[str, ...]) -> set[str]:
    paths = (str(path.relative_to(root)) for path in root.rglob("*"))
    return {path for path in paths if not any(fnmatch.fnmatch(path, pattern) for pattern in keeps)}


def _descriptors() -> Iterator[str]:
    directory = Path("/proc/self/fd" if _PROC.is_dir() else "/dev/fd")
    for entry in list(directory.iterdir()):
        # The one that lists this directory is closed by now.
        with contextlib.suppress(OSError):
            where = entry.readlink() if _PROC.is_dir() else os.fstat(int(entry.name)).st_ino
            yield f"{entry.name} -> {where}"
