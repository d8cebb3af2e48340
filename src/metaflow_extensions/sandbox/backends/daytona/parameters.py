"""From a spec to the SDK's parameters: whole cores and GiB, labels, networks, and an end without us."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Mapping
from typing import Any

import daytona

from ...errors import UnsupportedOption
from ..default_image import DEFAULT_IMAGE
from ..interface import SandboxSpec

OURS = "metaflow-sandbox"  # label of every sandbox of ours
LABEL = "metaflow-sandbox.label."  # before the names of the step's own labels
IPV4 = 4
UNITS = {"cpu": 1, "memory": 1024, "disk": 1024}  # of cores, and of MiB
AUTO_STOP = 15  # minutes without a call; the sandbox is ephemeral, so that this ends it
TTL = 120  # minutes, extended while a command runs
MARGIN = 300.0  # seconds from the end of a lifetime to Daytona's own end of the sandbox
OPTIONS = {
    "snapshot": "name of a snapshot, in place of an image",
    "target": "region",
    "volumes": "{absolute path inside: name or id of a volume, or {'volume': …, 'subpath': …}}",
}


def parameters(name: str, spec: SandboxSpec, user: str | None = None) -> Any:
    """What to create, for a user of the image other than Daytona's own choice.

    Raises UnsupportedOption for what Daytona can't give.
    """
    options = _checked(spec.options)
    common: dict[str, Any] = {
        "name": name,
        "os_user": user,
        "labels": {OURS: name, **{LABEL + key: value for key, value in spec.labels.items()}},
        "ephemeral": True,
        "auto_stop_interval": AUTO_STOP,
        "ttl_minutes": ttl(spec),
        "target": options.get("target"),
        "volumes": [volume(path, named) for path, named in options.get("volumes", {}).items()],
        **network(spec.network),
    }
    limits = {"cpu": spec.cpu, "memory": spec.memory, "disk": spec.disk}
    asked = {limit: _whole(limit, amount) for limit, amount in limits.items() if amount is not None}
    snapshot = options.get("snapshot")
    if snapshot is None:
        return daytona.CreateSandboxFromImageParams(
            image=image(spec), resources=daytona.Resources(**asked) if asked else None, **common
        )
    if asked or spec.image:
        raise UnsupportedOption(
            f"a snapshot of Daytona has its own image, cores, memory and disk: leave out "
            f"{', '.join(asked) or 'image'}, or the snapshot {snapshot!r}"
        )
    return daytona.CreateSandboxFromSnapshotParams(snapshot=snapshot, **common)


def image(spec: SandboxSpec) -> str:
    """The image's name. Raises UnsupportedOption for one that would be more than a name in a Dockerfile."""
    named = spec.image or DEFAULT_IMAGE
    if not named.isprintable() or " " in named or "$" in named:
        raise UnsupportedOption(f"image={named!r} is not a name of an image")
    return named


def ttl(spec: SandboxSpec) -> int:
    """Minutes after which Daytona ends the sandbox, whatever happens to us."""
    return math.ceil((spec.lifetime + MARGIN) / 60) if spec.lifetime else TTL


def network(asked: str | tuple[str, ...]) -> dict[str, Any]:
    """Blocked, open, or open for named hosts or for networks in CIDR notation."""
    if isinstance(asked, str):
        return {"network_block_all": asked == "none"}
    networks = [network for host in asked if (network := _as_network(host))]
    if networks and len(networks) != len(asked):
        raise UnsupportedOption(f"network={list(asked)!r}: name hosts or networks, not both")
    if any(network.version != IPV4 for network in networks):
        raise UnsupportedOption(f"network={list(asked)!r}: Daytona knows networks of IPv4 only")
    if networks:
        return {"network_allow_list": ",".join(map(str, networks))}
    return {"domain_allow_list": ",".join(asked)}


def volume(path: str, named: str | Mapping[str, str]) -> Any:
    """Where a volume, or what is below a prefix in it, is mounted."""
    wanted = {"volume": named} if isinstance(named, str) else named
    return daytona.VolumeMount(
        volume_id=wanted["volume"], mount_path=path, subpath=wanted.get("subpath") or None
    )


def _as_network(host: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(host)
    except ValueError:
        return None


def next_size(limit: str, amount: float) -> int:
    """The least that Daytona has for at least that much: whole cores, or whole GiB as MiB."""
    return math.ceil(amount / UNITS[limit]) * UNITS[limit]


def _whole(limit: str, amount: float) -> int:
    if amount % UNITS[limit]:
        raise UnsupportedOption(
            f"{limit}={amount:g}: Daytona has whole {'cores' if limit == 'cpu' else 'GiB'} only, the next is "
            f"{limit}={next_size(limit, amount)}"
        )
    return int(amount // UNITS[limit])


def _checked(options: Mapping[str, Any]) -> Mapping[str, Any]:
    wrong = [name for name, value in options.items() if not _fits(name, value)]
    if wrong:
        known = "; ".join(f"{name}: {what}" for name, what in OPTIONS.items())
        raise UnsupportedOption(f"backend_options {sorted(wrong)} can't be honoured; there are: {known}")
    return options


def _fits(name: str, value: Any) -> bool:
    if name == "volumes":
        return isinstance(value, Mapping) and all(
            isinstance(path, str) and path.startswith("/") and _is_volume(named)
            for path, named in value.items()
        )
    return name in OPTIONS and isinstance(value, str) and bool(value)


def _is_volume(named: Any) -> bool:
    if isinstance(named, Mapping):
        texts = all(isinstance(text, str) for text in named.values())
        return texts and bool(named.get("volume")) and set(named) <= {"volume", "subpath"}
    return isinstance(named, str) and bool(named)
