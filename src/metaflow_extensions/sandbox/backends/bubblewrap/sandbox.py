"""One sandbox of the bubblewrap backend: its state, its limits and the commands started in it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from ...errors import UnsupportedOption
from ..cgroups import Cgroup
from ..cgroups import available as cgroup_limits
from ..interface import Command, SandboxSpec
from ..lifetime import Lifetime
from ..local_state import LocalState
from ..warden import Warden
from .identity import identity
from .launch import launch
from .leftovers import name_of_bwrap
from .limits import counts_processes_apart, limit, resource_limits, sacrifice_first
from .process import BubblewrapProcess
from .profile import Attachments, Profile
from .targets import checked


class BubblewrapSandbox:
    """One sandbox: every command is a bwrap of its own with the same view.

    Close it in the process that opened it: its commands end with that process, and with a thread
    of the sandbox's own, because the kernel's parent-death signal watches the thread that spawned.
    """

    def __init__(self, binary: Path, spec: SandboxSpec, state: LocalState, warden: Warden) -> None:
        self.id = state.id
        self._binary = binary
        self._spec = spec
        self._state = state
        self._warden = warden
        self._identity = identity(state.id)
        self._files: list[tuple[Path, PurePosixPath]] = []
        self._processes: list[BubblewrapProcess] = []
        self._changing = threading.Lock()
        self._spawner = ThreadPoolExecutor(1, thread_name_prefix=self.id)
        self._cgroup = self._make_cgroup()
        if self._cgroup:
            state.keep_groups(self._cgroup.paths)
        self._limits = resource_limits(
            processes=spec.processes,
            disk=Profile(spec, self._identity).disk,
            memory=spec.memory if not (self._cgroup and "memory" in cgroup_limits()) else None,
            own_uid=bool(self._identity.prefix),
        )
        self._lifetime = Lifetime(state, spec.lifetime, self._expire)

    def start(self, command: Command) -> BubblewrapProcess:
        """Start a command; it is limited before it runs. Raises StartFailed, or SandboxLost after the end."""
        with self._changing:
            self._lifetime.check()
            process = self._start(command)
            self._processes.append(process)
            return process

    def _start(self, command: Command) -> BubblewrapProcess:
        profile = Profile(self._spec, self._identity, tuple(self._files))
        words = profile.command_arguments(command)
        pids: list[int] = []

        def before_setup(pid: int) -> None:
            self._state.record(pid)
            pids.append(pid)
            sacrifice_first(pid)
            if self._cgroup:
                self._cgroup.add(pid)

        def before_command(pid: int) -> None:
            self._state.record(pid)
            pids.append(pid)
            limit(pid, self._limits)

        def forget() -> None:
            for pid in pids:
                self._state.forget(pid)

        def arguments(attachments: Attachments) -> tuple[list[str], list[str]]:
            return profile.arguments(attachments), words

        try:
            launched = launch(
                self._binary,
                name_of_bwrap(self.id),
                arguments,
                [*self._identity.prefix, *command.argv],
                stdin=command.stdin,
                spawner=self._spawner,
                before_setup=before_setup,
                before_command=before_command,
            )
        except BaseException:
            forget()
            raise
        return BubblewrapProcess(launched, self._lifetime.why_lost, forget)

    def put(self, source: Path, target: PurePosixPath) -> None:
        """Copy a file, which commands started from now on see read-only at the target."""
        self._lifetime.check()
        roots = self._spec.python.roots if self._spec.python else ()
        inside = checked(target, self._spec.mounts, roots)
        copy = self._state.keep_file(source)
        self._files = [kept for kept in self._files if kept[1] != inside]
        self._files.append((copy, inside))

    def get(self, source: PurePosixPath, target: Path) -> None:
        """Refuse: what a command wrote ends with it. Raises UnsupportedOption."""
        raise UnsupportedOption(
            f"the bubblewrap backend can't copy {source} out to {target}: write results to standard output "
            "or a writable mount"
        )

    def close(self) -> None:
        """Kill everything and remove every trace; idempotent."""
        with self._changing:
            self._lifetime.close()
            for process in self._processes:
                process.discard()
            self._spawner.shutdown()
            if self._cgroup:
                self._cgroup.remove()
            self._state.destroy()
            self._warden.forget(self.id)

    def stats(self) -> Mapping[str, float]:
        """What a cgroup measures, where there is one."""
        return self._cgroup.stats() if self._cgroup else {}

    def _make_cgroup(self) -> Cgroup | None:
        can = cgroup_limits()
        memory = self._spec.memory if "memory" in can else None
        processes = self._spec.processes if "processes" in can and not counts_processes_apart() else None
        if memory is None and processes is None and self._spec.cpu is None:
            return None
        return Cgroup.create(self.id, memory_mib=memory, cpu_cores=self._spec.cpu, processes=processes)

    def _expire(self) -> None:
        for process in self._processes:
            process.lose(self._lifetime.why_lost() or "")
