"""One sandbox of the metalbox backend: its server, and the commands started as services of it."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from ...errors import UnsupportedOption
from ..interface import Command, SandboxSpec
from ..lifetime import Lifetime
from ..local_state import LocalState
from ..warden import Warden
from .leftovers import end_one
from .options import Options
from .process import MetalboxProcess
from .server import Server
from .service import Service


class MetalboxSandbox:
    """Each command has a service, directories and a profile of its own."""

    def __init__(
        self, binary: Path, spec: SandboxSpec, options: Options, state: LocalState, warden: Warden
    ) -> None:
        self.id = state.id
        self._spec = spec
        self._options = options
        self._state = state
        self._warden = warden
        self._numbers = itertools.count(1)
        self._processes: list[MetalboxProcess] = []
        self._changing = threading.Lock()
        self.server = Server(binary, state.directory / "server")
        self._lifetime = Lifetime(state, spec.lifetime, self._expire)

    def start(self, command: Command) -> MetalboxProcess:
        """Start a command. Raises StartFailed, or SandboxLost after the end."""
        with self._changing:
            self._lifetime.check()
            number = next(self._numbers)
            service = Service(self._state.directory / str(number), self._spec, self._options)
            service.prepare(command)
            process = MetalboxProcess(
                self.server, service, f"{self.id}-{number}", command.stdin, self._lifetime.why_lost
            )
            self._processes.append(process)
            process.begin()
            return process

    def put(self, source: Path, target: PurePosixPath) -> None:
        """Refuse: a process has no file system of its own to put files into. Raises UnsupportedOption."""
        source.stat()
        self._lifetime.check()
        raise UnsupportedOption(
            f"the metalbox backend can't put {source} at {target}, a place of the host's own: send it over "
            "standard input, or name its directory in backend_options read_only"
        )

    def get(self, source: PurePosixPath, target: Path) -> None:
        """Refuse: what a command wrote is nobody's after it. Raises UnsupportedOption."""
        raise UnsupportedOption(
            f"the metalbox backend can't copy {source} out to {target}: write results to standard output, or "
            "to a directory of backend_options read_write"
        )

    def close(self) -> None:
        """Kill everything and remove every trace; idempotent."""
        with self._changing:
            if self._lifetime.close():
                return
            for process in self._processes:
                process.discard()
            self.server.close()
            end_one(self._state)
            self._warden.forget(self.id)

    def stats(self) -> Mapping[str, float]:
        """Nothing is measured."""
        return {}

    def _expire(self) -> None:
        for process in self._processes:
            process.lose()
