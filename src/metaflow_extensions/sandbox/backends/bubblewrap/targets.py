"""Where a mount or a file may be put inside a sandbox, and whether its source can be used there."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from ...errors import UnsupportedOption
from ..interface import Mount
from ..python_scope import SYSTEM_DIRECTORIES
from .entries import Entry, Kind

HOME, WORK, TMP = (
    PurePosixPath("/sandbox/home"),
    PurePosixPath("/sandbox/work"),
    PurePosixPath("/sandbox/tmp"),
)
_LINKED_TO_TMP = (PurePosixPath("/tmp"), PurePosixPath("/var/tmp"))
_FOREIGN = tuple(PurePosixPath(place) for place in ("/proc", "/dev", "/sys", *map(str, SYSTEM_DIRECTORIES)))
_KEPT = (HOME, WORK, TMP, *_LINKED_TO_TMP, PurePosixPath("/etc/passwd"))


def relocated(target: PurePosixPath) -> PurePosixPath:
    """The target with /tmp and /var/tmp, which are links inside, followed."""
    for link in _LINKED_TO_TMP:
        if link in target.parents:
            return TMP / target.relative_to(link)
    return target


def checked(target: PurePosixPath, taken: Iterable[Mount], roots: Sequence[Path]) -> PurePosixPath:
    """Return the target as it is called inside.

    ``taken`` are the sandbox's other mounts. Raises UnsupportedOption for a target that is relative,
    has "..", would cover what the sandbox needs, or is inside something that a step can have written:
    a link planted there would redirect the mount.
    """
    if not target.is_absolute() or ".." in target.parts or "\0" in str(target):
        raise UnsupportedOption(f"target {str(target)!r} must be an absolute path without '..' or NUL")
    for place in (*_FOREIGN, *(PurePosixPath(root) for root in roots)):
        if place == target or place in target.parents:
            raise UnsupportedOption(
                f"target {target} is inside {place}, which is read-only in a sandbox: {_ELSEWHERE}"
            )
    if any(kept == target or target in kept.parents for kept in (*_KEPT, *roots)):
        raise UnsupportedOption(f"target {target} would hide what the sandbox needs there: {_ELSEWHERE}")
    for mount in taken:
        if mount.target == target:
            raise UnsupportedOption(f"target {target} is taken by a mount: {_ELSEWHERE}")
        if not mount.read_only and mount.target in target.parents:
            raise UnsupportedOption(
                f"target {target} is inside the writable mount {mount.target}, where an earlier step "
                f"can have put a link: {_ELSEWHERE}"
            )
    return relocated(target)


_ELSEWHERE = f"choose one below {WORK} or a new directory such as /mnt/data"


def mount_entries(mounts: Iterable[Mount]) -> Iterator[Entry]:
    """The entries of checked mounts, outer ones first."""
    for mount in sorted(mounts, key=lambda mount: len(mount.target.parts)):
        kind = Kind.READ_ONLY if mount.read_only else Kind.WRITABLE
        yield Entry(kind, str(mount.source.absolute()), str(relocated(mount.target)))


def check_source(mount: Mount, foreign_uid: bool) -> None:
    """Raise UnsupportedOption for a source that is absent, or that the sandbox's own uid could not use."""
    try:
        mode = os.stat(mount.source).st_mode  # noqa: PTH116 - follows links, as the mount does
    except OSError as error:
        raise UnsupportedOption(
            f"mount source {mount.source} can't be used ({error.strerror}): create it"
        ) from error
    if not foreign_uid:
        return
    needed = 0o5 if stat.S_ISDIR(mode) else 0o2 if stat.S_ISSOCK(mode) else 0o4
    needed |= 0 if mount.read_only else 0o2
    if mode & needed != needed:
        letters = "".join(letter for bit, letter in ((4, "r"), (2, "w"), (1, "x")) if needed & bit)
        raise UnsupportedOption(
            f"mount source {mount.source} is closed to others, and started by root a sandbox runs as a uid "
            f"of its own: chmod o+{letters} {mount.source} (the directory around it may stay private)"
        )
