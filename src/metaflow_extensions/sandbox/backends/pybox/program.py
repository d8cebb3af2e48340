"""pybox's command line: where it is, what it is given, and what its complaints mean."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...errors import BackendUnavailable, SandboxError, StartFailed, UnsupportedOption

CHOICE = "METAFLOW_SANDBOX_PYBOX_PATH"
COMMIT = "45392cbe1c7da1e9f00c5bba7d3d42a0d9bf3ad3"
INSTALL = f"pip install 'pybox @ git+https://github.com/br00tm/pybox@{COMMIT}'"
# What it needs to pull; nothing of it reaches a container.
PASSED_ON = ("HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")
# It runs where nothing of it lasts longer than its first process: neither a child nor a mount. It starts
# once it has been told to, by a launcher that remembers it.
_GATE = ("/bin/sh", "-c", 'read -r go && exec "$@"', "sh")
_ALONE = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")


def executable() -> str:
    """The program: METAFLOW_SANDBOX_PYBOX_PATH, else ``pybox`` in PATH, else the one beside this Python.

    Raises BackendUnavailable when there is none.
    """
    chosen = os.environ.get(CHOICE)
    beside = str(Path(sys.executable).with_name("pybox"))
    found = shutil.which(chosen) if chosen else shutil.which("pybox") or shutil.which(beside)
    if chosen and not found:
        raise BackendUnavailable(f"{CHOICE}={chosen!r} is not an executable file: correct or unset it")
    if not found:
        raise BackendUnavailable(f"there is no program pybox: {INSTALL} (Python 3.11 or newer)")
    return str(Path(found).absolute())


def words(*arguments: str) -> list[str]:
    """The command line that runs pybox once it reads a line."""
    return [*_GATE, *_ALONE, executable(), *arguments]


def environment(root: Path) -> Mapping[str, str]:
    """Everything that pybox finds in its environment, with its files below ``root``."""
    passed_on = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    return {
        **passed_on,
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "PYBOX_ROOT": str(root),
        # Its own limits are silently none without cgroup v2: it makes no cgroup, and ours are around it.
        "PYBOX_CGROUP_ROOT": os.devnull,
        "LANG": "C.UTF-8",
        "COLUMNS": "1000",  # or its complaints are broken into lines
    }


def store() -> Path:
    """The images that pybox keeps, which outlast a sandbox."""
    return Path(os.environ.get("PYBOX_ROOT", "/var/lib/pybox"), "images")


def complaint(image: str, log: Path, ended: int | None) -> SandboxError:
    """What pybox's last words mean; ``ended`` is its exit code, None when only the container ended."""
    said = complaint_text(log.read_text(errors="replace").splitlines())
    if "Image not found" in said:
        return UnsupportedOption(f"there is no image {image!r}: {said}; name another one with image=")
    reason = said or ("python3 did not run in it" if ended is None else f"it ended with exit code {ended}")
    return StartFailed(
        f"pybox did not start image {image!r}: {reason}; image= names a public image of Docker Hub with a "
        "python3 in its PATH"
    )


def complaint_text(lines: Sequence[str]) -> str:
    """The lines that say what went wrong: pybox's errors, else the last ones."""
    errors = [line for line in lines if "Error:" in line or "FATAL" in line]
    return " ".join(errors or [line for line in lines if line.strip()][-3:]).strip()
