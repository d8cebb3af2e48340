"""Containers of a Docker engine, or of Podman's service, which speaks the same API.

A step sees its image read-only, without capabilities, as a user that owns nothing, under the engine's
own filter on system calls. It can write to its working directory, /tmp, HOME and /var/tmp, in memory:
four, two, one and one eighth of ``disk`` (default 1024 MiB).

Default image: python:<the launcher's minor>-slim.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import requests
from docker.errors import APIError, DockerException

from ...errors import BackendUnavailable, StartFailed, UnsupportedOption
from ..default_image import DEFAULT_IMAGE
from ..interface import Feature, Isolation, SandboxInfo, SandboxSpec
from ..local_state import LocalState
from ..options import check_options
from ..warden import warden
from . import engine, images
from .leftovers import END, end, state_directory
from .profile import LABEL, SANDBOX_LABEL, check_mounts, network_mode
from .sandbox import ContainerSandbox

OPTIONS: Mapping[str, type] = {"pull_policy": str, "network": str}
ALWAYS = frozenset(
    {
        Feature.MOUNT,
        Feature.STDIN,
        Feature.IMAGE,
        Feature.NETWORK_OFF,
        Feature.NETWORK_HOST,
        Feature.DISK_LIMIT,
    }
)
LIMITS = frozenset({Feature.MEMORY_LIMIT, Feature.CPU_LIMIT, Feature.PROCESS_LIMIT, Feature.GPU})


class DockerBackend:
    """The engine that DOCKER_HOST, the Docker context or the usual sockets lead to."""

    isolation = Isolation.CONTAINER
    default_image = DEFAULT_IMAGE
    name = "docker"
    podman_first = False

    def __init__(self) -> None:
        self._engine: engine.Engine | None = None
        # Without an engine nothing is refused for what it can't limit: that it is not there is said first.
        self.features = ALWAYS | LIMITS
        with contextlib.suppress(BackendUnavailable):
            self._connected()

    def check(self) -> None:
        """Raise BackendUnavailable unless an engine answers."""
        self._connected()

    def open(self, spec: SandboxSpec) -> ContainerSandbox:
        """Make sure of the image; nothing runs yet.

        Raises UnsupportedOption, BackendUnavailable, or StartFailed when a registry or the disk fails.
        """
        connected = self._connected()
        check_options(spec, self, self.name)
        policy = check_backend_options(spec.options)
        network_mode(spec)
        check_mounts(spec.mounts)
        image = images.ensure(connected, spec.image or DEFAULT_IMAGE, policy, spec.tell)
        base = state_directory()
        sandbox_id = LocalState.unused_id(base)
        guard = warden(END, str(base), connected.url)
        # Before anything is made: this process may be killed at any moment.
        guard.watch(sandbox_id)
        try:
            state = LocalState.create(base, spec.labels, sandbox_id)
        except OSError as error:
            guard.forget(sandbox_id)
            raise StartFailed(
                f"no sandbox can be made below {base}: {error}; free some space there, or set TMPDIR"
            ) from error
        return ContainerSandbox(connected, image, spec, state, guard)

    def list(self, labels: Mapping[str, str]) -> Iterator[SandboxInfo]:
        """Sandboxes of this user, and containers whose launcher died without a trace on this machine."""
        found = {info.id: info for state in LocalState.all(state_directory()) if (info := state.info())}
        if self._engine:
            for container in self._containers(self._engine):
                info = _described(container)
                found.setdefault(info.id, info)
        return iter([info for info in found.values() if labels.items() <= info.labels.items()])

    def destroy(self, sandbox_id: str) -> None:
        """Remove a sandbox of any process of this user; idempotent."""
        end(str(state_directory()), self._connected().url, sandbox_id)

    def _connected(self) -> engine.Engine:
        if self._engine is None:
            self._engine = engine.connect(podman_first=self.podman_first)
            self.features = ALWAYS | self._engine.limits
        return self._engine

    @staticmethod
    def _containers(connected: engine.Engine) -> Any:
        try:
            return connected.client.containers(all=True, filters={"label": SANDBOX_LABEL})
        except (APIError, DockerException, requests.exceptions.RequestException) as error:
            raise BackendUnavailable(f"the engine at {connected.url} does not answer: {error}") from error


class PodmanBackend(DockerBackend):
    """The same, with Podman's sockets looked at first."""

    name = "podman"
    podman_first = True


def check_backend_options(options: Mapping[str, Any]) -> str:
    """The pull policy. Raises UnsupportedOption for options that are unknown or of another type."""
    for name, value in options.items():
        if not isinstance(value, OPTIONS.get(name, ())):
            raise UnsupportedOption(
                f"backend_options {name}={value!r}: there are {', '.join(OPTIONS)}, each a string"
            )
    policy = str(options.get("pull_policy", "missing"))
    if policy not in images.POLICIES:
        raise UnsupportedOption(f"pull_policy={policy!r} is one of {', '.join(images.POLICIES)}")
    return policy


def _described(container: Mapping[str, Any]) -> SandboxInfo:
    labels = container.get("Labels") or {}
    own = {name.removeprefix(LABEL): value for name, value in labels.items() if name.startswith(LABEL)}
    return SandboxInfo(labels[SANDBOX_LABEL], own, float(container["Created"]))
