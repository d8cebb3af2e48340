"""One sandbox: a container for each command, with the same view."""

from __future__ import annotations

import functools
import socket
import threading
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import requests
from docker.errors import APIError

from ...errors import SandboxLost, StartFailed, UnsupportedOption
from ..interface import Command, SandboxSpec
from ..lifetime import Lifetime
from ..local_state import LocalState
from ..warden import Warden
from .engine import Engine
from .leftovers import end_without_engine, remove, remove_containers
from .process import ContainerProcess
from .profile import (
    LABEL,
    SANDBOX_LABEL,
    USER,
    WORK,
    check_target,
    environment,
    host_config,
    words,
)


class ContainerSandbox:
    """Close it in the process that opened it."""

    def __init__(
        self, engine: Engine, image: Mapping[str, Any], spec: SandboxSpec, state: LocalState, warden: Warden
    ) -> None:
        self.id = state.id
        self._engine = engine
        self._image = image
        self._spec = spec
        self._state = state
        self._warden = warden
        self._files: dict[PurePosixPath, Path] = {}
        self._processes: list[ContainerProcess] = []
        self._changing = threading.Lock()
        self._lifetime = Lifetime(state, spec.lifetime, self._expire)

    def start(self, command: Command) -> ContainerProcess:
        """Start a command in a container of its own. Raises StartFailed, or SandboxLost after the end."""
        with self._changing:
            self._lifetime.check()
            try:
                process = self._start(command)
            except APIError as error:
                raise StartFailed(
                    f"the engine does not start a container: {error.explanation or error}"
                ) from error
            except requests.exceptions.RequestException as error:
                raise StartFailed(f"the engine at {self._engine.url} does not answer: {error}") from error
            self._processes.append(process)
            return process

    def _start(self, command: Command) -> ContainerProcess:
        client = self._engine.client
        labels = {LABEL + name: value for name, value in self._spec.labels.items()}
        container = client.create_container(
            self._image["Id"],
            command=[],
            entrypoint=words(command, self._image),
            environment=environment(command, self._image),
            # Not the command's own, which the engine would make where it is missing.
            working_dir=WORK,
            user=USER,
            stdin_open=command.stdin,
            network_disabled=self._spec.network == "none",
            labels={**labels, SANDBOX_LABEL: self.id},
            host_config=host_config(self._engine, self._spec, self._files),
        )["Id"]
        try:
            # Before it starts, or what it says first is lost.
            raw = client.attach_socket(
                container, params={"stdin": int(command.stdin), "stdout": 1, "stderr": 1, "stream": 1}
            )
            attached = socket.socket(fileno=socket.dup(raw.fileno()))
            attached.setblocking(True)  # the SDK's own timeout left it otherwise
            raw._response.close()
            client.start(container)
        except BaseException:
            remove(client, container)
            raise
        return ContainerProcess(
            client,
            container,
            attached,
            stdin=command.stdin,
            lost=self._lifetime.why_lost,
            end_here=functools.partial(end_without_engine, container),
        )

    def put(self, source: Path, target: PurePosixPath) -> None:
        """Copy a file, which commands started from now on see read-only at the target."""
        self._lifetime.check()
        check_target(target, [mount.target for mount in self._spec.mounts])
        self._files[target] = self._state.keep_file(source)

    def get(self, source: PurePosixPath, target: Path) -> None:
        """Refuse: what a command wrote ends with it. Raises UnsupportedOption."""
        raise UnsupportedOption(
            f"this backend can't copy {source} out to {target}: write results to standard output or a "
            "writable mount"
        )

    def close(self) -> None:
        """Remove the containers and every trace; idempotent.

        Raises SandboxLost when the engine does not answer any more: their processes have been ended.
        """
        with self._changing:
            closed = self._lifetime.close()
            self._state.destroy()
            for process in self._processes:
                process.abandon()
            try:
                if not closed:
                    remove_containers(self._engine.client, self.id)
            except (APIError, requests.exceptions.RequestException) as error:
                for process in self._processes:
                    end_without_engine(process.container)
                raise SandboxLost(
                    f"the engine at {self._engine.url} does not remove containers of {self.id} ({error}): "
                    f"when it is back, remove those with the label {SANDBOX_LABEL}={self.id}"
                ) from error
            finally:
                for process in self._processes:
                    process.discard()
                self._processes.clear()
                self._warden.forget(self.id)

    def stats(self) -> Mapping[str, float]:
        """Nothing: asking the engine would take as long as a start."""
        return {}

    def _expire(self) -> None:
        for process in self._processes:
            process.kill()
