"""mount and umount without a process for each: the calls of mount(2) and umount2(2), for root."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

_MS_NOSUID, _MS_NODEV, _MNT_DETACH = 2, 4, 2  # <sys/mount.h>


def mount_tmpfs(place: Path, size: int) -> None:
    """Mount a file system in memory of ``size`` MiB. Raises OSError."""
    options = f"size={size}m,mode=755".encode()
    libc = ctypes.CDLL(None, use_errno=True)
    _check(libc.mount(b"tmpfs", os.fsencode(place), b"tmpfs", _MS_NOSUID | _MS_NODEV, options), place)


def unmount_below(directory: Path) -> None:
    """Unmount everything below a directory, also what is in use, as soon as it is not. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
        place = Path(line.split()[4].encode().decode("unicode_escape"))
        if directory in place.parents:
            _check(libc.umount2(os.fsencode(place), _MNT_DETACH), place)


def _check(result: int, place: Path) -> None:
    number = ctypes.get_errno()
    # Another process may have unmounted it since it was read.
    if result and number not in (errno.EINVAL, errno.ENOENT):
        raise OSError(number, os.strerror(number), str(place))
