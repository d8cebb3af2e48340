"""An environment on its way out of the sandbox that made it: a tar stream of plain files."""

from __future__ import annotations

import os
import posixpath
import shutil
import tarfile
from pathlib import Path
from typing import BinaryIO

from ..errors import PackagesFailed

MAX_FILES = 1_000_000
INTERPRETERS = ("bin/python",)  # what the names of the only links begin with


def receive(stream: BinaryIO, target: Path, limit: int, *, links: bool = False) -> None:
    """Write the files below ``target``, an empty directory; at most ``limit`` bytes of them.

    With ``links`` there may be some that lead to another place below it. Raises PackagesFailed for a path
    that leads out, any other link or a special file, tarfile.TarError for a stream that ends early, or
    OSError.
    """
    count = size = 0
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            count, size = count + 1, size + member.size
            if count > MAX_FILES or size > limit:
                raise PackagesFailed(
                    f"the packages take more than {limit >> 20} MiB or {MAX_FILES} files: ask for fewer, or "
                    "set METAFLOW_SANDBOX_CACHE_SIZE, in MiB"
                )
            place = _place(member.name, target)
            place.parent.mkdir(parents=True, exist_ok=True)
            inside = links and _stays(member.name, member.linkname)
            if member.issym() and (inside or (member.name.startswith(INTERPRETERS) and not links)):
                place.symlink_to(member.linkname)
                continue
            content = archive.extractfile(member) if member.isreg() else None
            if content is None:
                raise PackagesFailed(f"the packages hold {member.name!r}, which is no plain file")
            number = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with os.fdopen(number, "wb") as file:
                shutil.copyfileobj(content, file)
                # Read by whoever the backend runs the step as, and by a directory above that is private.
                os.fchmod(number, 0o755 if member.mode & 0o100 else 0o644)
    for folder in (path for path in target.rglob("*") if path.is_dir() and not path.is_symlink()):
        folder.chmod(0o755)


def _stays(name: str, link: str) -> bool:
    """Whether a link of that name leads to a place below the directory."""
    end = posixpath.normpath(posixpath.join(posixpath.dirname(name), link))
    return bool(link) and not link.startswith("/") and not end.startswith("..") and "\0" not in link


def _place(name: str, target: Path) -> Path:
    parts = name.split("/")
    if not name or any(part in ("", ".", "..") for part in parts) or "\0" in name:
        raise PackagesFailed(f"the packages hold {name!r}, which leads out of their directory")
    place = target.joinpath(*parts)
    # Links are only made where nothing can be below them.
    if any(parent.is_symlink() for parent in place.parents if target in parent.parents):
        raise PackagesFailed(f"the packages hold {name!r} below a link")
    return place
