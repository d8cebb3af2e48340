"""A cgroup for one sandbox: limits that hold for all its processes together, and what they used."""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from ..errors import BackendUnavailable, StartFailed, UnsupportedOption
from .cgroup_files import PREFIX, Group, remove_paths, write_control
from .cgroup_places import CONTROLLERS, Hierarchies, Place, hierarchies, places

__all__ = ["Cgroup", "available", "remove_paths"]

_REMEDY = "run as root or with: systemd-run --user --scope -p Delegate=yes"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_PROBE: dict[str, float] = {"memory": 64, "cpu": 0.01, "processes": 64}


@functools.cache
def available() -> frozenset[str]:
    """Which of "memory", "cpu" and "processes" can be limited here: each is tried once in a process."""
    return frozenset(limit for limit in CONTROLLERS if _can_limit(limit))


class Cgroup:
    """Limits for a set of processes; in cgroup v1 a directory for each controller."""

    def __init__(self, groups: list[Group]) -> None:
        self._groups = groups
        self._removed = False
        self._last: tuple[float | None, float | None, bool] = (None, None, False)

    @classmethod
    def create(
        cls, name: str, *, memory_mib: int | None, cpu_cores: float | None, processes: int | None
    ) -> Cgroup:
        """Make the groups below or beside this process's own, with the limits set.

        ``memory_mib`` covers swap as well; ``processes`` counts threads; None leaves a resource unlimited.
        Raises UnsupportedOption when a limit can't be enforced here; then nothing is left behind.
        """
        return _create(name, {"memory": memory_mib, "cpu": cpu_cores, "processes": processes}, hierarchies())

    @property
    def paths(self) -> tuple[Path, ...]:
        """The directories made: what ``remove_paths`` needs in another process."""
        return tuple(group.path for group in self._groups)

    def add(self, pid: int) -> None:
        """Move a process in; its children follow it. Raises StartFailed when it can't be moved."""
        try:
            for group in self._groups:
                group.add(pid)
        except OSError as error:
            raise StartFailed(
                f"process {pid} can't be moved ({error.filename}: {error.strerror}): it ended, or this "
                f"user may not move it; {_REMEDY}"
            ) from error

    def peak_memory_mib(self) -> float | None:
        """The most memory used at a time, in MiB; None where it is not measured. Kept after ``remove``."""
        return self._last[0] if self._removed else _first(self._groups, Group.peak_memory_mib)

    def cpu_seconds(self) -> float | None:
        """Processor time used, in seconds; None where it is not measured. Kept after ``remove``."""
        return self._last[1] if self._removed else _first(self._groups, Group.cpu_seconds)

    def oom_killed(self) -> bool:
        """Whether the kernel killed a process for the memory limit. Kept after ``remove``."""
        return self._last[2] if self._removed else any(group.oom_killed() for group in self._groups)

    def stats(self) -> Mapping[str, float]:
        """``peak_memory`` in MiB and ``cpu_time`` in seconds, as far as they are measured."""
        measured = {"peak_memory": self.peak_memory_mib(), "cpu_time": self.cpu_seconds()}
        return {name: value for name, value in measured.items() if value is not None}

    def remove(self) -> None:
        """Kill what still runs inside and remove the directories; idempotent.

        Raises BackendUnavailable when processes don't end; call again once they have.
        """
        if not self._removed:
            self._last = (self.peak_memory_mib(), self.cpu_seconds(), self.oom_killed())
            self._removed = True
        remove_paths(self.paths)


def _create(name: str, limits: dict[str, float | None], found: Hierarchies) -> Cgroup:
    if not _NAME.fullmatch(name):
        raise UnsupportedOption(f"{name!r} can't name a cgroup; use letters, digits, '_', '.' and '-'")
    wanted = {limit: value for limit, value in limits.items() if value is not None}
    for limit, value in wanted.items():
        if value <= 0:
            raise UnsupportedOption(f"a limit of {value} on {limit} lets nothing run; ask for more, or none")
    made: list[Group] = []
    try:
        for place in places(frozenset(wanted), found):
            group = _make(place, name, made)
            _limit(group, place.controllers, wanted)
        _measure(name, found, made)
    except OSError as error:
        remove_paths(group.path for group in made)
        raise UnsupportedOption(
            f"a limit on {', '.join(sorted(wanted))} can't be enforced here ({error.filename}: "
            f"{error.strerror}): it is over that of the group this process is in, or that group isn't "
            f"delegated; {_REMEDY}"
        ) from error
    except BaseException:
        remove_paths(group.path for group in made)
        raise
    return Cgroup(made)


def _make(place: Place, name: str, made: list[Group]) -> Group:
    if place.version == 2:
        _hand_down(place.parent, place.controllers)
    group = Group(place.parent / (PREFIX + name), place.version)
    group.path.mkdir()
    made.append(group)
    return group


def _hand_down(parent: Path, controllers: frozenset[str]) -> None:
    """Let children of ``parent`` have the controllers; never taken back, as other sandboxes may use them."""
    control = parent / "cgroup.subtree_control"
    missing = controllers - set(control.read_text().split())
    if missing:
        write_control(control, " ".join(f"+{controller}" for controller in sorted(missing)))


def _limit(group: Group, controllers: frozenset[str], wanted: dict[str, float]) -> None:
    if "memory" in controllers:
        group.limit_memory(int(wanted["memory"]))
    if "cpu" in controllers:
        group.limit_cpu(wanted["cpu"])
    if "pids" in controllers:
        group.limit_processes(int(wanted["processes"]))


def _measure(name: str, found: Hierarchies, made: list[Group]) -> None:
    """In v1, join also the controllers that count memory and processor time, and the one that stops forks."""
    for controller in ("memory", "cpuacct", "pids"):
        parent = found.v1.get(controller)
        if parent is not None and parent not in {group.path.parent for group in made}:
            with contextlib.suppress(OSError):  # nothing was promised
                _make(Place(parent, 1, frozenset()), name, made)


def _first(groups: list[Group], measure: Callable[[Group], float | None]) -> float | None:
    return next((value for value in map(measure, groups) if value is not None), None)


def _can_limit(limit: str) -> bool:
    name = f"probe-{os.getpid()}-{limit}"
    try:
        _create(name, {limit: _PROBE[limit]}, hierarchies()).remove()
    except (UnsupportedOption, BackendUnavailable):
        return False
    return True
