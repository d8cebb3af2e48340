"""What sandboxes of nitrobox and pybox have in common: files, limits, a lifetime and one way to end."""

from __future__ import annotations

import abc
import itertools
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from ..errors import StartFailed, UnsupportedOption
from .cgroups import Cgroup
from .cgroups import available as cgroup_limits
from .container_places import check_target, check_words
from .inner_process import InnerProcess
from .interface import Command, Feature, SandboxSpec
from .lifetime import Lifetime
from .local_state import LocalState
from .warden import Warden, warden

LIMITS = {"memory": Feature.MEMORY_LIMIT, "cpu": Feature.CPU_LIMIT, "processes": Feature.PROCESS_LIMIT}
PROCESSES = 1024  # when the step does not say


def limit_features() -> frozenset[Feature]:
    """What a cgroup of ours around the command can limit here."""
    return frozenset(LIMITS[limit] for limit in cgroup_limits())


def watched_state(base: Path, labels: Mapping[str, str], end: str) -> tuple[LocalState, Warden]:
    """The state of a new sandbox, and the warden that calls ``end`` should this process be killed.

    Raises StartFailed on a full disk.
    """
    sandbox_id = LocalState.unused_id(base)
    guard = warden(end, str(base))
    # Before anything is made: this process may be killed at any moment.
    guard.watch(sandbox_id)
    try:
        return LocalState.create(base, labels, sandbox_id), guard
    except OSError as error:
        guard.forget(sandbox_id)
        raise StartFailed(
            f"no sandbox can be made below {base}: {error}; free some space there, or set TMPDIR"
        ) from error


class LocalSandbox(abc.ABC):
    """Close it in the process that opened it; every command runs in a container of its own."""

    def __init__(self, spec: SandboxSpec, state: LocalState, warden: Warden) -> None:
        self.id = state.id
        self._spec = spec
        self._state = state
        self._warden = warden
        self._files: dict[PurePosixPath, Path] = {}
        self._processes: list[InnerProcess] = []
        self._numbers = itertools.count()
        self._changing = threading.Lock()
        try:
            self._cgroup = self._make_cgroup()
        except BaseException:
            state.destroy()
            warden.forget(self.id)
            raise
        if self._cgroup:
            state.keep_groups(self._cgroup.paths)
        self._lifetime = Lifetime(state, spec.lifetime, self._expire)

    def start(self, command: Command) -> InnerProcess:
        """Start a command in a container of its own. Raises StartFailed, or SandboxLost after the end."""
        with self._changing:
            self._lifetime.check()
            check_words(command)
            process = self._start(command, next(self._numbers))
            self._processes.append(process)
            return process

    def put(self, source: Path, target: PurePosixPath) -> None:
        """Copy a file, which commands started from now on see at the target."""
        self._lifetime.check()
        check_target(target, [mount.target for mount in self._spec.mounts])
        self._files[target] = self._state.keep_file(source)

    def get(self, source: PurePosixPath, target: Path) -> None:
        """Refuse: what a command wrote ends with it. Raises UnsupportedOption."""
        raise UnsupportedOption(
            f"this backend can't copy {source} out to {target}: write results to standard output or to a "
            "writable mount, where the backend has mounts"
        )

    def close(self) -> None:
        """Kill everything and remove every trace; idempotent."""
        with self._changing:
            self._lifetime.close()
            for process in self._processes:
                process.discard()
            self._processes.clear()
            if self._cgroup:
                self._cgroup.remove()
            self._clean_up()
            self._state.destroy()
            self._warden.forget(self.id)

    def stats(self) -> Mapping[str, float]:
        """What a cgroup measures, where there is one."""
        return self._cgroup.stats() if self._cgroup else {}

    @abc.abstractmethod
    def _start(self, command: Command, number: int) -> InnerProcess:
        """Start the sandbox's command of that number."""

    @abc.abstractmethod
    def _clean_up(self) -> None:
        """Take away what a removal of the state's directory doesn't."""

    def _started(self, pids: Sequence[int], limited: Sequence[int]) -> None:
        """Remember processes, and put some of them under the limits."""
        for pid in pids:
            self._state.record(pid)
        if self._cgroup:
            for pid in limited:
                self._cgroup.add(pid)

    def _make_cgroup(self) -> Cgroup | None:
        can = cgroup_limits()
        if not can:
            return None
        return Cgroup.create(
            self.id,
            memory_mib=self._spec.memory,
            cpu_cores=self._spec.cpu,
            processes=(self._spec.processes or PROCESSES) if "processes" in can else None,
        )

    def _expire(self) -> None:
        for process in self._processes:
            process.kill()
