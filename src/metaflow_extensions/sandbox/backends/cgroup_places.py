"""Where on this machine a cgroup with given controllers can be made: cgroup v1, v2, and hybrids of both.

Rules of v2 from the kernel's Documentation/admin-guide/cgroup-v2.rst: controllers come from the parent's
``cgroup.subtree_control``; a group that holds processes cannot hand controllers down, except the real root;
whoever moves a process needs write access to ``cgroup.procs`` of the common ancestor of both groups.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from ..errors import UnsupportedOption

CONTROLLERS: Final[Mapping[str, str]] = {"memory": "memory", "cpu": "cpu", "processes": "pids"}
"""What can be limited, and the controller that does it."""


@dataclass(frozen=True)
class Hierarchies:
    """The groups this process is in: one for each v1 controller, and one of v2 below its mount point."""

    v1: Mapping[str, Path]
    v2: Path | None = None
    v2_mount: Path | None = None


@dataclass(frozen=True)
class Place:
    """A directory of cgroupfs in which a group with these controllers can be made."""

    parent: Path
    version: int
    controllers: frozenset[str]


def hierarchies(proc: Path = Path("/proc")) -> Hierarchies:
    """Read ``/proc/self/cgroup`` and ``/proc/self/mountinfo``; what is not mounted is left out."""
    own: dict[str, str] = {}
    for line in _lines(proc / "self" / "cgroup"):
        _number, names, path = line.split(":", 2)
        for name in names.split(","):  # v2 has the empty name
            own[name] = path
    v1: dict[str, Path] = {}
    v2 = v2_mount = None
    for root, mount, kind, options in _mounts(proc):
        if kind == "cgroup2" and "" in own and v2 is None:
            v2 = _below(mount, root, own[""])
            v2_mount = mount
        elif kind == "cgroup":
            for name in options:
                directory = _below(mount, root, own[name]) if name in own else None
                if directory is not None:
                    v1.setdefault(name, directory)
    return Hierarchies(v1, v2, v2_mount)


def places(wanted: frozenset[str], found: Hierarchies) -> list[Place]:
    """Where to make groups so that each wanted limit ("memory", "cpu", "processes") is enforced.

    Raises UnsupportedOption, naming what is in the way and what mends it.
    """
    controllers = {CONTROLLERS[limit] for limit in wanted}
    result: dict[Path, set[str]] = {}
    for name in sorted(controllers & found.v1.keys()):
        parent = found.v1[name]
        if not os.access(parent, os.W_OK | os.X_OK):
            raise _unsupported(wanted, f"the cgroup v1 directory {parent} is not writable; run as root")
        result.setdefault(parent, set()).add(name)  # controllers mounted together share a group
    made = [Place(parent, 1, frozenset(names)) for parent, names in result.items()]
    rest = frozenset(controllers - found.v1.keys())
    if rest:
        made.append(Place(_delegated(rest, wanted, found), 2, rest))
    return made


def _delegated(needed: frozenset[str], wanted: frozenset[str], found: Hierarchies) -> Path:
    """The nearest group of v2, from this process's own upwards, that can hand the controllers down."""
    if found.v2 is None or found.v2_mount is None:
        raise _unsupported(wanted, f"no cgroup file system with {_list(needed)} is mounted; mount cgroup2")
    obstacles = []
    directory = found.v2
    while True:
        obstacle = _obstacle(directory, needed)
        if obstacle is None:
            return directory
        obstacles.append(f"{directory} {obstacle}")
        if directory == found.v2_mount:
            break
        directory = directory.parent
    raise _unsupported(
        wanted,
        f"no cgroup around this process hands down {_list(needed)} ({'; '.join(obstacles)}); start the run "
        "with: systemd-run --user --scope -p Delegate=yes",
    )


def _obstacle(directory: Path, needed: frozenset[str]) -> str | None:
    for path in (directory, directory / "cgroup.procs", directory / "cgroup.subtree_control"):
        if not os.access(path, os.W_OK):
            return "is not writable"
    absent = needed - _words(directory / "cgroup.controllers")
    if absent:
        return f"lacks {_list(absent)}"
    is_root = not (directory / "cgroup.type").exists()
    if needed <= _words(directory / "cgroup.subtree_control") or is_root:
        return None
    return "holds processes itself" if _lines(directory / "cgroup.procs") else None


def _mounts(proc: Path) -> Iterator[tuple[str, Path, str, list[str]]]:
    for line in _lines(proc / "self" / "mountinfo"):
        fields = line.split(" ")
        after = fields.index("-", 6)
        yield (
            _unescaped(fields[3]),
            Path(_unescaped(fields[4])),
            fields[after + 1],
            fields[after + 3].split(","),
        )


def _below(mount: Path, root: str, path: str) -> Path | None:
    """Where the group at ``path`` shows under a mount of the group at ``root``; None when it does not."""
    pure = PurePosixPath(path)
    if ".." in pure.parts or not pure.is_relative_to(root):
        return None
    return mount / pure.relative_to(root)


def _unescaped(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def _lines(path: Path) -> list[str]:
    return path.read_text(errors="surrogateescape").splitlines() if path.exists() else []


def _words(path: Path) -> frozenset[str]:
    return frozenset(path.read_text().split()) if path.exists() else frozenset()


def _list(names: frozenset[str]) -> str:
    return ", ".join(sorted(names))


def _unsupported(wanted: frozenset[str], cause: str) -> UnsupportedOption:
    return UnsupportedOption(f"a limit on {_list(wanted)} can't be enforced here: {cause}")
