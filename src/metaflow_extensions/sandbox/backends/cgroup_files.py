"""The files of one cgroup: limits, measurements and the end of its processes, for v1 and v2."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..errors import BackendUnavailable, UnsupportedOption

PREFIX: Final = "metaflow-sandbox-"
"""How the directories of sandboxes are named; nothing else is ever removed."""

_MIB = 1 << 20
_PERIOD: Final = 100_000  # microseconds, the kernel's default
_LEAST_QUOTA: Final = 1_000  # microseconds, the least that the kernel takes
_PATIENCE = 10.0  # seconds for killed processes to leave
_PAUSE = 0.01


@dataclass(frozen=True)
class Group:
    """One directory of cgroupfs, of cgroup ``version`` 1 or 2."""

    path: Path
    version: int

    def limit_memory(self, mib: int) -> None:
        """Limit memory, swap included. Raises UnsupportedOption where swap would be a way around it."""
        size = str(mib * _MIB)
        if self.version == 1:
            self._write("memory.limit_in_bytes", size)
            swap, value = ("memory.memsw.limit_in_bytes", size)
            if not (self.path / swap).exists():
                swap, value = ("memory.swappiness", "0")
        else:
            self._write("memory.max", size)
            swap, value = ("memory.swap.max", "0")
        if (self.path / swap).exists():
            self._write(swap, value)
        elif len(Path("/proc/swaps").read_text().splitlines()) > 1:
            raise UnsupportedOption(
                "memory can't be limited here: this kernel does not count swap; boot with swapaccount=1 or "
                "turn swap off: swapoff -a"
            )

    def limit_cpu(self, cores: float) -> None:
        """Limit processor time to that of so many cores."""
        quota = max(_LEAST_QUOTA, round(cores * _PERIOD))
        if self.version == 1:
            self._write("cpu.cfs_period_us", str(_PERIOD))
            self._write("cpu.cfs_quota_us", str(quota))
        else:
            self._write("cpu.max", f"{quota} {_PERIOD}")

    def limit_processes(self, count: int) -> None:
        """Limit processes and threads together."""
        self._write("pids.max", str(count))

    def add(self, pid: int) -> None:
        """Move a process in, with all its threads."""
        self._write("cgroup.procs", str(pid))

    def peak_memory_mib(self) -> float | None:
        """The most memory in use so far, page cache included; None where it is not measured."""
        name = "memory.max_usage_in_bytes" if self.version == 1 else "memory.peak"
        text = self._read(name)
        return None if text is None else int(text) / _MIB

    def cpu_seconds(self) -> float | None:
        """Processor time used so far, in seconds; None where it is not measured."""
        if self.version == 1:
            text = self._read("cpuacct.usage")
            return None if text is None else int(text) / 1e9
        used = self._field("cpu.stat", "usage_usec")
        return None if used is None else used / 1e6

    def oom_killed(self) -> bool:
        """Whether the kernel killed a process of the group for lack of memory."""
        name = "memory.oom_control" if self.version == 1 else "memory.events"
        return bool(self._field(name, "oom_kill"))

    def _write(self, name: str, value: str) -> None:
        write_control(self.path / name, value)

    def _read(self, name: str) -> str | None:
        path = self.path / name
        return path.read_text() if path.exists() else None

    def _field(self, name: str, key: str) -> int | None:
        for line in (self._read(name) or "").splitlines():
            if line.startswith(key + " "):
                return int(line.split()[1])
        return None


def write_control(path: Path, value: str) -> None:
    """Write one control file. Raises OSError that names it."""
    try:
        # Not opened for creation: a file that the kernel does not offer is an error, not a new file.
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, value.encode())
        finally:
            os.close(descriptor)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def remove_paths(paths: Iterable[Path]) -> None:
    """Kill what runs in the groups at these paths and below, and remove them; what is gone is passed over.

    Every path is tried. Raises UnsupportedOption for a path that ``Cgroup.paths`` can't have given, and
    BackendUnavailable when processes do not leave within 10 seconds.
    """
    groups = list(paths)
    for path in groups:
        if not path.name.startswith(PREFIX) or not path.is_absolute():
            raise UnsupportedOption(f"{path} is no cgroup of a sandbox; name those that Cgroup.paths gave")
    deadline = time.monotonic() + _PATIENCE
    pause = _PAUSE / 16
    while True:
        for path in groups:  # all of them once before any again: one may stop the forks that fill another
            _end(path)
        groups = [path for path in groups if path.exists()]
        if not groups:
            return
        if time.monotonic() > deadline:
            break
        time.sleep(pause)
        pause = min(2 * pause, _PAUSE)
    names = " ".join(map(str, groups))
    raise BackendUnavailable(
        f"processes in {names} don't end after SIGKILL, blocked in the kernel as on a dead network mount: "
        f"once they have, run: rmdir {names}"
    )


def _end(path: Path) -> None:
    for group in _depth_first(path):
        _kill(group)
        with contextlib.suppress(OSError):  # busy while a process is on its way out, or gone meanwhile
            group.rmdir()


def _depth_first(path: Path) -> Iterator[Path]:
    for directory, _names, _files in os.walk(path, topdown=False):
        yield Path(directory)


def _kill(group: Path) -> None:
    with contextlib.suppress(OSError):  # there is none in v1 and before Linux 5.14, or it is gone meanwhile
        write_control(group / "cgroup.kill", "1")
    with contextlib.suppress(OSError):  # without this controller forks go on, and are killed the next time
        write_control(group / "pids.max", "0")
    for pid in _members(group):
        _kill_member(pid, group)


def _kill_member(pid: int, group: Path) -> None:
    try:
        handle = os.pidfd_open(pid)
    except OSError:  # it ended
        return
    try:
        if pid in _members(group):  # asked again: from here on the number cannot pass to another process
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
    finally:
        os.close(handle)


def _members(group: Path) -> list[int]:
    try:
        return [int(pid) for pid in (group / "cgroup.procs").read_text().split() if pid != "0"]
    except OSError:  # removed meanwhile: reading then gives ENOENT or ENODEV
        return []
