"""What a backend can't honour is refused here, before anything is started; never warned about."""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import UnsupportedOption
from .interface import Backend, Feature, Isolation, SandboxSpec

_NETWORKS = {
    "none": Feature.NETWORK_OFF,
    "host": Feature.NETWORK_HOST,
    "public": Feature.NETWORK_PUBLIC,
}


def unsupported(spec: SandboxSpec, backend: Backend) -> list[str]:
    """Name every option of the spec that the backend can't honour, each with what would."""
    problems = list(_nonsense(spec))
    for option, feature in _needs(spec):
        if feature not in backend.features:
            problems.append(f"{option} needs a backend with {feature.name} ({feature.value})")
    return problems


def check_options(spec: SandboxSpec, backend: Backend, name: str) -> None:
    """Raise UnsupportedOption, naming every problem at once, unless the backend's features cover the spec."""
    problems = unsupported(spec, backend)
    if problems:
        raise UnsupportedOption(
            f"sandbox backend {name!r} can't honour what the step asks for: {'; '.join(problems)}. Change "
            "or leave out the option, or choose another backend with backend= or METAFLOW_SANDBOX_BACKEND"
        )


def refuse_backend_options(spec: SandboxSpec, name: str) -> None:
    """Raise UnsupportedOption where a backend that has no options of its own is given some."""
    if spec.options:
        raise UnsupportedOption(
            f"the {name} backend has no options {sorted(spec.options)}: leave out backend_options"
        )


def require_isolation(backend: Backend, name: str, wanted: str | None) -> None:
    """Raise UnsupportedOption when the backend's wall is weaker than wanted: process, container or vm."""
    if wanted is None:
        return
    labels = [level.label for level in Isolation]
    if wanted not in labels:
        raise UnsupportedOption(
            f"isolation={wanted!r} is not a class of isolation: use one of {', '.join(labels)}"
        )
    if backend.isolation < Isolation[wanted.upper()]:
        raise UnsupportedOption(
            f"isolation={wanted!r} is stronger than sandbox backend {name!r}, which gives "
            f"{backend.isolation.label!r}: choose a stronger backend, or ask for less"
        )


def _needs(spec: SandboxSpec) -> Iterator[tuple[str, Feature]]:
    amounts = {
        "cpu": Feature.CPU_LIMIT,
        "memory": Feature.MEMORY_LIMIT,
        "disk": Feature.DISK_LIMIT,
        "processes": Feature.PROCESS_LIMIT,
        "image": Feature.IMAGE,
        "gpu": Feature.GPU,
    }
    for option, feature in amounts.items():
        value = getattr(spec, option)
        # gpu=0 asks for none, which every backend honours.
        if value is not None and not (option == "gpu" and value == 0):
            yield f"{option}={value!r}", feature
    if isinstance(spec.network, str):
        if spec.network in _NETWORKS:
            yield f"network={spec.network!r}", _NETWORKS[spec.network]
    elif spec.network:
        yield f"network={list(spec.network)!r}", Feature.EGRESS_LIST
    if spec.mounts:
        yield f"mounts={[str(mount.target) for mount in spec.mounts]!r}", Feature.MOUNT
    if spec.layer:
        yield f"layer={str(spec.layer.place)!r}", Feature.LAYERS
    if spec.secrets:
        yield f"secrets={[secret.name for secret in spec.secrets]!r}", Feature.SECRETS
    if spec.python is not None:
        yield f"python={str(spec.python.executable)!r}", Feature.HOST_PYTHON


def _nonsense(spec: SandboxSpec) -> Iterator[str]:
    """Values that no backend could honour."""
    for option in ("cpu", "memory", "disk", "processes", "lifetime"):
        value = getattr(spec, option)
        if value is not None and not (isinstance(value, (int, float)) and value > 0):
            yield f"{option}={value!r} must be a number above 0"
    if spec.gpu is not None and not (isinstance(spec.gpu, int) and spec.gpu >= 0):
        yield f"gpu={spec.gpu!r} must be a whole number"
    if isinstance(spec.network, str) and spec.network not in _NETWORKS:
        yield f'network={spec.network!r} must be "none", "host", "public" or a list of host names'
    if not isinstance(spec.network, str) and not spec.network:
        yield 'network=[] names no host: say "none"'
    for secret in spec.secrets:
        if not secret.hosts:
            yield f"secret {secret.name!r} names no host that its value may be sent to"
        if spec.network == "none":
            yield f"secret {secret.name!r} is of no use without a network: list its hosts as network="
