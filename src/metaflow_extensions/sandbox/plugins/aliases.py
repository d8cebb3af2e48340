"""One decorator for each built-in backend, with ``@sandbox``'s options."""

from __future__ import annotations

from .sandbox_decorator import SandboxDecorator

_THROW_AWAY = "throw-away sandbox"


class BubblewrapDecorator(SandboxDecorator):  # noqa: D101 -- made from the other's
    __doc__ = (SandboxDecorator.__doc__ or "").replace(_THROW_AWAY, "throw-away bubblewrap sandbox")
    name = backend_name = "bubblewrap"


class BoxliteDecorator(SandboxDecorator):  # noqa: D101
    __doc__ = (SandboxDecorator.__doc__ or "").replace(_THROW_AWAY, "throw-away virtual machine of BoxLite")
    name = backend_name = "boxlite"


class DockerDecorator(SandboxDecorator):  # noqa: D101
    __doc__ = (SandboxDecorator.__doc__ or "").replace(_THROW_AWAY, "throw-away Docker container")
    name = backend_name = "docker"


class PodmanDecorator(SandboxDecorator):  # noqa: D101
    __doc__ = (SandboxDecorator.__doc__ or "").replace(_THROW_AWAY, "throw-away Podman container")
    name = backend_name = "podman"


class NitroboxDecorator(SandboxDecorator):  # noqa: D101
    __doc__ = (SandboxDecorator.__doc__ or "").replace(_THROW_AWAY, "throw-away nitrobox container")
    name = backend_name = "nitrobox"


class PyboxDecorator(SandboxDecorator):  # noqa: D101
    __doc__ = (SandboxDecorator.__doc__ or "").replace(_THROW_AWAY, "throw-away pybox container")
    name = backend_name = "pybox"


class E2BDecorator(SandboxDecorator):  # noqa: D101
    __doc__ = (SandboxDecorator.__doc__ or "").replace(_THROW_AWAY, "throw-away virtual machine of E2B")
    name = backend_name = "e2b"


class DaytonaDecorator(SandboxDecorator):  # noqa: D101
    __doc__ = (SandboxDecorator.__doc__ or "").replace(_THROW_AWAY, "throw-away Daytona sandbox")
    name = backend_name = "daytona"


class MetalboxDecorator(SandboxDecorator):  # noqa: D101
    __doc__ = (SandboxDecorator.__doc__ or "").replace(_THROW_AWAY, "throw-away MetalBox service (macOS)")
    name = backend_name = "metalbox"


class MicrosandboxDecorator(SandboxDecorator):  # noqa: D101
    __doc__ = (SandboxDecorator.__doc__ or "").replace(_THROW_AWAY, "throw-away microsandbox virtual machine")
    name = backend_name = "microsandbox"
