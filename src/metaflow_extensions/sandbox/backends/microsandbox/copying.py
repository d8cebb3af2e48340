"""Copies one file into or out of a virtual machine, over standard input or output; runs inside.

Only standard library, Python >= 3.8: ``copying.py in PATH MODE`` or ``copying.py out PATH``.
"""
# ruff: noqa: PTH103, PTH104, PTH120

from __future__ import annotations

import os
import stat
import sys

CHUNK = 1 << 18  # bytes
MISSING, NOT_A_FILE = 3, 4  # exit codes of ``out``
ABOVE = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def main(direction: str, path: str, mode: str = "") -> int:
    """Copy; the exit code says what kept it from that."""
    return put(path, int(mode, 8)) if direction == "in" else get(path)


def put(path: str, mode: int) -> int:
    """Make the file from what comes in; nobody sees half of it."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    draft = f"{path}.{os.getpid()}.draft"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    os.fchmod(descriptor, mode)
    copy(0, descriptor)
    os.close(descriptor)
    os.rename(draft, path)
    return 0


def get(path: str) -> int:
    """Send a regular file that no link leads to."""
    try:
        at = os.open("/", ABOVE)
        *above, name = [part for part in path.split("/") if part]
        for part in above:
            below = os.open(part, ABOVE, dir_fd=at)
            os.close(at)
            at = below
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=at)
    except FileNotFoundError:
        return MISSING
    except OSError:
        return NOT_A_FILE
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        return NOT_A_FILE
    copy(descriptor, 1)
    return 0


def copy(source: int, target: int) -> None:
    """Until the end."""
    while True:
        data = os.read(source, CHUNK)
        if not data:
            return
        view = memoryview(data)
        while view:
            view = view[os.write(target, view) :]


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
