"""Images that nitrobox pulls: what it needs for that, and what its complaints mean."""

from __future__ import annotations

import os
import pwd
import re
import shutil
from pathlib import Path

from ...errors import SandboxError, StartFailed, UnsupportedOption

# Of the build daemon that nitrobox brings along and starts to pull with.
_ABSENT = re.compile(r": not found$|404 Not Found|repository does not exist")
_DENIED = re.compile(r"401 Unauthorized|403 Forbidden|pull access denied|authorization failed")


def check_image(image: str) -> None:
    """Raise UnsupportedOption for a directory that is none, or where nothing can be pulled."""
    if image.startswith("/"):
        if not Path(image).is_dir():
            raise UnsupportedOption(
                f"image={image!r} is no directory: name a root file system, or a reference"
            )
        return
    name = pwd.getpwuid(os.geteuid()).pw_name
    missing = [
        f"echo '{name}:100000:65536' >> {path}"
        for path in ("/etc/subuid", "/etc/subgid")
        if not re.search(rf"(?m)^({name}|{os.geteuid()}):", _read(Path(path)))
    ]
    if not shutil.which("runc"):
        missing.append("apt-get install runc")
    if missing:
        raise UnsupportedOption(
            f"nitrobox can't pull image={image!r} before: {'; '.join(missing)}; or name the directory of a "
            "root file system"
        )


def complaint(image: str, failure: str | None) -> SandboxError:
    """What it means that no sandbox was made, or that it ended before its first program was there."""
    if failure and _ABSENT.search(failure):
        return UnsupportedOption(
            f"there is no image {image!r} ({failure}): name another one with image=, or a directory"
        )
    if failure and _DENIED.search(failure):
        return UnsupportedOption(
            f"image {image!r} may not be pulled ({failure}): run docker login for its registry as this user"
        )
    return StartFailed(
        f"nitrobox did not start image {image!r}: {failure or 'python3 did not run in it'}; image= names a "
        "directory or a reference with a Python in it"
    )


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""
