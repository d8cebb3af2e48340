"""Limits of a sandbox that the kernel enforces process by process.

Set from outside while bwrap waits to start the command, so that nothing of the user's runs without
them. The number of processes is counted for the sandbox alone: by its user namespace since Linux
5.14, and by its own uid when root started it.
"""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Mapping
from pathlib import Path

PROCESSES = 1024  # when the step does not say; threads count too
_FILES = 65536
_MIB = 1 << 20


def resource_limits(
    *, processes: int | None, disk: int, memory: int | None, own_uid: bool
) -> Mapping[int, int]:
    """Values by RLIMIT constant.

    ``disk`` and ``memory`` are in MiB, the latter None when nothing or a cgroup limits it;
    ``own_uid`` says that the sandbox's first process, bwrap, has another uid than its command.
    """
    limits = {
        # bwrap's own process in the namespace is not one of the command's.
        resource.RLIMIT_NPROC: (processes or PROCESSES) + (0 if own_uid else 1),
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: _FILES,
        # A little above the file system's size, which should be what is met; for writable mounts.
        resource.RLIMIT_FSIZE: (disk + 1) * _MIB,
    }
    if memory is not None:
        limits[resource.RLIMIT_AS] = memory * _MIB
    return limits


def limit(pid: int, limits: Mapping[int, int]) -> None:
    """Set the limits of a process, never above those that it has."""
    for kind, value in limits.items():
        hard = resource.prlimit(pid, kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.prlimit(pid, kind, (value, value))


def sacrifice_first(pid: int) -> None:
    """Let the kernel's out-of-memory killer take this process and its children before anything else."""
    # Where it can't be written (a hardened /proc) the sandbox is only less likely to be taken.
    with contextlib.suppress(PermissionError):
        Path(f"/proc/{pid}/oom_score_adj").write_text("1000")


def counts_processes_apart(release: str | None = None, euid: int | None = None) -> bool:
    """Whether processes of a sandbox are counted without the user's others; see ``os.uname().release``."""
    if (os.geteuid() if euid is None else euid) == 0:
        return True
    major, minor = (release or os.uname().release).split(".")[:2]
    return (int(major), int("".join(filter(str.isdigit, minor)) or 0)) >= (5, 14)
