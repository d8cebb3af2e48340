"""What stands where in a sandbox's file system, as entries that bwrap makes and that can be looked up."""

from __future__ import annotations

import enum
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

_LINKS_AT_MOST = 40  # the kernel's own limit, MAXSYMLINKS


class Kind(enum.Enum):
    """The value is bwrap's option."""

    READ_ONLY = "--ro-bind"
    WRITABLE = "--bind"
    COPY = "--file"
    LINK = "--symlink"
    DIRECTORY = "--dir"


class Entry(NamedTuple):
    """``source`` is a host path, what a link holds, or the permissions of a directory in octal."""

    kind: Kind
    source: str
    target: str


def with_parents(entries: Iterable[Entry], writable: Sequence[PurePosixPath]) -> Iterator[Entry]:
    """The entries, each after the directories around it, which bwrap would make without access for others."""
    made: set[PurePosixPath] = set()
    for entry in entries:
        target = PurePosixPath(entry.target)
        for parent in reversed(target.parents[:-1]):
            if parent not in made:
                made.add(parent)
                inside = any(place in parent.parents for place in writable)
                yield Entry(Kind.DIRECTORY, "0777" if inside else "0755", str(parent))
        made.add(target)
        yield entry


def mirrored(place: Path, target: str | None = None) -> Iterator[Entry]:
    """Show a host path read-only at its own place or at ``target``: a link as a link, nothing as nothing."""
    where = target or str(place)
    if place.is_symlink():
        yield Entry(Kind.LINK, str(place.readlink()), where)
    elif place.exists():
        yield Entry(Kind.READ_ONLY, str(place), where)


class View:
    """The sandbox's file system as far as the entries tell, to see before the start whether a path exists."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._links: dict[str, str] = {}
        self._shown: dict[str, str] = {}
        self._directories = {"/"}
        for entry in entries:
            if entry.kind is Kind.LINK:
                self._links[entry.target] = entry.source
            elif entry.kind is not Kind.DIRECTORY:
                self._shown[entry.target] = entry.source
            else:
                self._directories.add(entry.target)
            self._directories.update(str(parent) for parent in PurePosixPath(entry.target).parents)

    def is_directory(self, path: PurePosixPath) -> bool:
        """Whether the absolute path is a directory inside."""
        inside, host = self._follow(path)
        return os.path.isdir(host) if host else inside in self._directories  # noqa: PTH112

    def program(self, name: str, search: Sequence[str], cwd: PurePosixPath) -> PurePosixPath | None:
        """Where ``execvp`` would find a program inside; None when nowhere."""
        places = [cwd / name] if "/" in name else [cwd / directory / name for directory in search]
        for place in places:
            host = self._follow(place)[1]
            if host and os.path.isfile(host) and os.stat(host).st_mode & 0o111:  # noqa: PTH113, PTH116
                return place
        return None

    def _follow(self, path: PurePosixPath) -> tuple[str | None, str | None]:
        """The real path inside and the host path behind it; None where there is none."""
        here, rest, links = "/", list(path.parts[1:]), 0
        while rest:
            part = rest.pop(0)
            if part == "..":
                here = os.path.dirname(here)  # noqa: PTH120
                continue
            step = os.path.join(here, part)  # noqa: PTH118
            target = self._link_at(step)
            if target is None:
                if step not in self._directories and not self._exists(step):
                    return None, None
                here = step
                continue
            links += 1
            if links > _LINKS_AT_MOST:
                return None, None
            if target.startswith("/"):
                here = "/"
            rest = [*(piece for piece in target.split("/") if piece not in ("", ".")), *rest]
        return here, self._host(here)

    def _host(self, inside: str) -> str | None:
        for place in (inside, *map(str, PurePosixPath(inside).parents)):
            if place in self._shown:
                return self._shown[place] + inside[len(place) :]
        return None

    def _exists(self, inside: str) -> bool:
        host = self._host(inside)
        return host is not None and os.path.exists(host)  # noqa: PTH110

    def _link_at(self, inside: str) -> str | None:
        if inside in self._links:
            return self._links[inside]
        if inside in self._shown:
            return None
        host = self._host(inside)
        if host is None:
            return None
        try:
            return os.readlink(host) if stat.S_ISLNK(os.lstat(host).st_mode) else None  # noqa: PTH115
        except OSError:
            # Absent or not to be seen, which the caller finds out next.
            return None
