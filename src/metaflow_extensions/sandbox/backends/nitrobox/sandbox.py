"""One sandbox: for each command a nitrobox sandbox with the same view."""

from __future__ import annotations

import itertools
import shutil
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from nitrobox import SandboxConfig

from ...errors import SandboxLost, UnsupportedOption
from ..cgroups import Cgroup
from ..cgroups import available as cgroup_limits
from ..interface import Command, Mount, SandboxSpec
from ..local_state import LocalState
from ..mounts import unmount_below
from ..warden import Warden
from . import loader
from .process import NitroboxProcess
from .targets import DISK, PATH, SHARED_MEMORY, USER, WORK, check_target, variables
from .view import ENTRY, View


class NitroboxSandbox:
    """Close it in the process that opened it."""

    def __init__(self, image: str, spec: SandboxSpec, state: LocalState, warden: Warden) -> None:
        self.id = state.id
        self._image = image
        self._spec = spec
        self._state = state
        self._warden = warden
        self._files: dict[PurePosixPath, Path] = {}
        self._processes: list[NitroboxProcess] = []
        self._numbers = itertools.count()
        self._changing = threading.Lock()
        self._closed = self._expired = False
        self._cgroup = self._make_cgroup()
        if self._cgroup:
            state.keep_groups(self._cgroup.paths)
        self._timer = threading.Timer(spec.lifetime, self._expire) if spec.lifetime else None
        if self._timer:
            self._timer.daemon = True
            self._timer.start()

    def start(self, command: Command) -> NitroboxProcess:
        """Start a command in a sandbox of its own. Raises StartFailed, or SandboxLost after the end."""
        with self._changing:
            self._ensure_open()
            words = (*command.argv, *command.env, *command.env.values(), str(command.cwd))
            if not command.argv or any("\0" in word for word in words):
                raise ValueError("a command needs at least one word, and nothing may hold a NUL")
            number = next(self._numbers)
            entry = self._state.directory / f"command{number}"
            files = [Mount(source, target) for target, source in self._files.items()]
            view = View(entry, self._spec.disk or DISK, [*self._spec.mounts, *files])
            shutil.copyfile(Path(loader.__file__), entry / "loader.py")
            job = loader.pack(USER, str(command.cwd or WORK), [*command.argv], variables(command))
            process = NitroboxProcess(
                self._config(view.volumes),
                f"{self.id}-{number}",
                f"{ENTRY}/loader.py {ENTRY}/socket",
                job,
                entry / "socket",
                stdin=command.stdin,
                started=self._started,
                lost=self._why_lost,
            )
            self._processes.append(process)
            return process

    def put(self, source: Path, target: PurePosixPath) -> None:
        """Copy a file, which commands started from now on see read-only at the target."""
        self._ensure_open()
        check_target(target, [mount.target for mount in self._spec.mounts])
        self._files[target] = self._state.keep_file(source)

    def get(self, source: PurePosixPath, target: Path) -> None:
        """Refuse: what a command wrote ends with it. Raises UnsupportedOption."""
        raise UnsupportedOption(
            f"the nitrobox backend can't copy {source} out to {target}: write results to standard output or "
            "a writable mount"
        )

    def close(self) -> None:
        """Kill everything and remove every trace; idempotent."""
        with self._changing:
            if self._timer:
                self._timer.cancel()
            self._closed = True
            for process in self._processes:
                process.discard()
            self._processes.clear()
            if self._cgroup:
                self._cgroup.remove()
            if self._state.directory.exists():
                unmount_below(self._state.directory)
            self._state.destroy()
            self._warden.forget(self.id)

    def stats(self) -> Mapping[str, float]:
        """``peak_memory`` in MiB and ``cpu_time`` in seconds, as far as a cgroup measures them."""
        if not self._cgroup:
            return {}
        measured = {"peak_memory": self._cgroup.peak_memory_mib(), "cpu_time": self._cgroup.cpu_seconds()}
        return {name: value for name, value in measured.items() if value is not None}

    def _config(self, volumes: list[str]) -> SandboxConfig:
        return SandboxConfig(
            image=self._image,
            environment={"PATH": PATH},
            env_base_dir=str(self._state.directory),
            volumes=volumes,
            shm_size=f"{min(self._spec.disk or DISK, SHARED_MEMORY)}m",
            read_only=True,
            net_isolate=self._spec.network == "none",
        )

    def _started(self, pids: Sequence[int]) -> None:
        for pid in pids:
            self._state.record(pid)
            if self._cgroup:
                self._cgroup.add(pid)

    def _make_cgroup(self) -> Cgroup | None:
        can = cgroup_limits()
        if not can:
            return None
        return Cgroup.create(
            self.id,
            memory_mib=self._spec.memory,
            cpu_cores=self._spec.cpu,
            processes=(self._spec.processes or 1024) if "processes" in can else None,
        )

    def _ensure_open(self) -> None:
        if self._expired:
            raise SandboxLost(self._past_lifetime())
        if self._closed or not self._state.exists():
            raise SandboxLost(f"sandbox {self.id} was closed or destroyed: open a new one")

    def _why_lost(self) -> str | None:
        if self._expired:
            return self._past_lifetime()
        return None if self._state.exists() else f"sandbox {self.id} was destroyed by another process"

    def _expire(self) -> None:
        self._expired = True
        for process in self._processes:
            process.kill()

    def _past_lifetime(self) -> str:
        return f"sandbox {self.id} passed its lifetime of {self._spec.lifetime} s: ask for a longer one"
