"""Where things are in a container of nitrobox or pybox, and what may be put where."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from ..errors import UnsupportedOption
from .interface import Command, Mount

DISK = 1024  # MiB when the step does not say
SHARED_MEMORY = 64  # MiB, at most
USER = 65534  # nobody, who owns nothing
WORK, HOME, TMP = "/sandbox/work", "/sandbox/home", "/sandbox/tmp"
OWN = [WORK, HOME, TMP]
ENTRY = PurePosixPath("/run/sandbox")  # what a backend itself needs inside
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
KEPT = (*map(PurePosixPath, ("/proc", "/sys", "/dev")), ENTRY)


def variables(command: Command) -> dict[str, str]:
    """The command's whole environment. Raises ValueError for a name that can't be one."""
    if any(not name or "=" in name for name in command.env):
        raise ValueError("an environment variable needs a name without '='")
    return {"PATH": PATH, "HOME": HOME, "TMPDIR": TMP, "LANG": "C.UTF-8", **command.env}


def check_words(command: Command) -> None:
    """Raise ValueError for a command without words, or with a NUL anywhere."""
    words = (*command.argv, *command.env, *command.env.values(), str(command.cwd))
    if not command.argv or any("\0" in word for word in words):
        raise ValueError("a command needs at least one word, and nothing may hold a NUL")


def check_mounts(mounts: Sequence[Mount]) -> None:
    """Raise UnsupportedOption for a doubtful target, FileNotFoundError for a source that is not there."""
    targets = [mount.target for mount in mounts]
    for number, mount in enumerate(mounts):
        check_target(mount.target, [*targets[:number], *targets[number + 1 :]])
        if not mount.source.exists():
            raise FileNotFoundError(f"there is nothing at {mount.source} to be mounted")


def check_target(target: PurePosixPath, taken: Sequence[PurePosixPath]) -> None:
    """Raise UnsupportedOption unless something can be put there."""
    if not target.is_absolute() or {"..", "\0"} & {*target.parts, *str(target)} or not target.name:
        raise UnsupportedOption(f"target {str(target)!r} must be an absolute path without '..' or NUL")
    if any(place == target or place in target.parents for place in KEPT) or str(target) in OWN:
        raise UnsupportedOption(f"target {target} is the sandbox's own: choose one below {WORK} or /mnt")
    if target in taken:
        raise UnsupportedOption(f"target {target} is taken by another mount: choose another one")
