"""The backends that come along, named as strings so that no SDK is imported before it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class BuiltIn:
    """Where a built-in backend is; ``extra`` installs its SDK, None when it needs nothing more."""

    path: str
    extra: str | None
    summary: str


BUILT_IN: Mapping[str, BuiltIn] = {
    "bubblewrap": BuiltIn(
        "metaflow_extensions.sandbox.backends.bubblewrap.backend:BubblewrapBackend",
        None,
        "Linux namespaces on this machine: no daemon, no image, no root",
    ),
    "docker": BuiltIn(
        "metaflow_extensions.sandbox.backends.docker.backend:DockerBackend",
        "docker",
        "containers of a Docker engine, or of Podman's",
    ),
    "podman": BuiltIn(
        "metaflow_extensions.sandbox.backends.docker.backend:PodmanBackend",
        "docker",
        "containers of a Podman service, or of Docker's",
    ),
    "nitrobox": BuiltIn(
        "metaflow_extensions.sandbox.backends.nitrobox.backend:NitroboxBackend",
        "nitrobox",
        "containers without an engine, as root with Python 3.12 or newer",
    ),
    "pybox": BuiltIn(
        "metaflow_extensions.sandbox.backends.pybox.backend:PyboxBackend",
        None,
        "containers of pybox, as root; installed from its repository",
    ),
    "boxlite": BuiltIn(
        "metaflow_extensions.sandbox.backends.boxlite.backend:BoxliteBackend",
        "boxlite",
        "virtual machines of BoxLite, on this machine or on a server",
    ),
    "e2b": BuiltIn(
        "metaflow_extensions.sandbox.backends.e2b.backend:E2BBackend",
        "e2b",
        "virtual machines in E2B's cloud, with nothing but a key",
    ),
    "daytona": BuiltIn(
        "metaflow_extensions.sandbox.backends.daytona.backend:DaytonaBackend",
        "daytona",
        "containers in Daytona's cloud, with nothing but its API key",
    ),
    "metalbox": BuiltIn(
        "metaflow_extensions.sandbox.backends.metalbox.backend:MetalboxBackend",
        "metalbox",
        "macOS processes with Metal, in Apple's sandbox profile",
    ),
    "microsandbox": BuiltIn(
        "metaflow_extensions.sandbox.backends.microsandbox.backend:MicrosandboxBackend",
        "microsandbox",
        "virtual machines on this machine or of a microsandbox cloud",
    ),
}
