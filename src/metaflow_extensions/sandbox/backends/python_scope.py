"""Which directories are too broad to be shown to a sandbox as part of a Python environment."""

from __future__ import annotations

import contextlib
import os
import pwd
from pathlib import Path

from ..errors import UnsupportedOption

# Shown to every sandbox on the host's own file system, so never part of a Python environment.
SYSTEM_DIRECTORIES = tuple(
    Path(place)
    for place in ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store", "/gnu/store")
)

_BROAD = (
    *(
        "/",
        "/boot",
        "/dev",
        "/etc",
        "/home",
        "/media",
        "/mnt",
        "/opt",
        "/proc",
        "/root",
        "/run",
        "/srv",
        "/sys",
    ),
    *("/tmp", "/usr", "/var", "/var/cache", "/var/lib", "/var/log", "/var/run", "/var/tmp"),
)
# Below a home directory: where credentials and other programs' data are.
_PRIVATE = (
    ".ssh",
    ".aws",
    ".azure",
    ".config",
    ".docker",
    ".gnupg",
    ".kube",
    ".metaflowconfig",
    ".cache",
    ".local",
)
_SHARED_PARENTS = (".local/share", ".local/lib", ".local/bin", "bin", "Desktop", "Documents", "Downloads")


def beneath(path: Path, directory: Path) -> bool:
    """Whether the path is the directory or inside it, by name."""
    return path == directory or directory in path.parents


def refuse_broad(end: Path, named: Path, role: str, home: Path | None = None) -> None:
    """Raise UnsupportedOption when a directory holds much more than Python code.

    ``end`` is the real directory, ``named`` how the environment names it and ``role`` why it is
    there; ``home`` replaces the user's home directories.
    """
    if end.is_dir() and (str(end) in _BROAD or any(_swallows(end, place) for place in _homes(home))):
        shown = str(named) if named == end else f"{named} (which is {end})"
        raise UnsupportedOption(
            f"{role}, {shown}, would show the sandbox all of {end}: move the code into a directory "
            "of its own and name that one in PYTHONPATH, the .pth file or the virtual environment"
        )


def _swallows(end: Path, home: Path) -> bool:
    if beneath(home, end):
        return True
    return any(end == home / name for name in (*_PRIVATE, *_SHARED_PARENTS))


def _homes(home: Path | None) -> set[Path]:
    if home:
        return {home.resolve()}
    # HOME may point elsewhere than the account's own directory; both hold private files.
    homes = {Path(os.path.expanduser("~"))}  # noqa: PTH111 - Path.home raises without an account
    # A uid without an account, as in many containers, has no other home.
    with contextlib.suppress(KeyError):
        homes.add(Path(pwd.getpwuid(os.getuid()).pw_dir))
    return {place.resolve() for place in homes if place != Path("/") and place.is_absolute()}
