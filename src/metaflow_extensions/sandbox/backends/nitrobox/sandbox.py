"""One sandbox: for each command a nitrobox sandbox with the same view."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..container_places import DISK, ENTRY, PATH, SHARED_MEMORY, USER, WORK, variables
from ..interface import Command, Mount, SandboxSpec
from ..local_sandbox import LocalSandbox
from ..local_state import LocalState
from ..mounts import unmount_below
from ..warden import Warden
from . import loader
from .process import NitroboxProcess
from .view import View


class NitroboxSandbox(LocalSandbox):
    """Commands see files that were put read-only."""

    def __init__(self, image: str, spec: SandboxSpec, state: LocalState, warden: Warden) -> None:
        self._image = image
        super().__init__(spec, state, warden)

    def _start(self, command: Command, number: int) -> NitroboxProcess:
        entry = self._state.directory / f"command{number}"
        files = [Mount(source, target) for target, source in self._files.items()]
        view = View(entry, self._spec.disk or DISK, [*self._spec.mounts, *files])
        shutil.copyfile(Path(loader.__file__), entry / "loader.py")
        job = loader.pack(USER, str(command.cwd or WORK), [*command.argv], variables(command))
        return NitroboxProcess(
            self._config(view.volumes),
            f"{self.id}-{number}",
            f"{ENTRY}/loader.py {ENTRY}/socket",
            job,
            entry / "socket",
            stdin=command.stdin,
            started=self._all_started,
            lost=self._lifetime.why_lost,
            tell=self._spec.tell or _nothing,
        )

    def _all_started(self, pids: Sequence[int]) -> None:
        self._started(pids, pids)

    def _clean_up(self) -> None:
        if self._state.directory.exists():
            unmount_below(self._state.directory)

    def _config(self, volumes: list[str]) -> dict[str, Any]:
        """Of nitrobox's SandboxConfig."""
        return {
            "image": self._image,
            "environment": {"PATH": PATH},
            "env_base_dir": str(self._state.directory),
            "volumes": volumes,
            "shm_size": f"{min(self._spec.disk or DISK, SHARED_MEMORY)}m",
            "read_only": True,
            "net_isolate": self._spec.network == "none",
        }


def _nothing(_line: str) -> None:
    """For those who want to hear nothing."""
