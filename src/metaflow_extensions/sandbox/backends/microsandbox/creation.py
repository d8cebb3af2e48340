"""Makes one sandbox: its image, its virtual machine, and what it means when there is none."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Mapping
from typing import Any

from microsandbox import (
    Image,
    InvalidConfigError,
    MicrosandboxError,
    PullPolicy,
    RootDisk,
    Sandbox,
    UnsupportedError,
)

from ...errors import SandboxError, StartFailed, UnsupportedOption
from ..default_image import DEFAULT_IMAGE
from ..interface import SandboxSpec
from . import images
from .boot_log import BootLog
from .network import Placeholders, network_of
from .place import Place

MARK = "metaflow-sandbox"  # the label of all of ours
CPUS, MEMORY = 1, 4096  # cores and MiB, as Metaflow's other backends have them
OPTIONS: Mapping[str, type] = {"pull_policy": str, "registry_insecure": bool}
PULL = 300.0  # seconds without any news of a pull
LATER = 120.0  # seconds after the launcher, which may be gone, the provider ends a sandbox that is too old
BOOT = 180.0  # seconds; the runtime itself gives up before


def plan(spec: SandboxSpec, placeholders: Placeholders) -> dict[str, Any]:
    """The SDK's arguments but for the image. Raises UnsupportedOption."""
    for name, value in spec.options.items():
        if not isinstance(value, OPTIONS.get(name, ())):
            raise UnsupportedOption(
                f"backend_options {name}={value!r}: there are pull_policy (a string) and registry_insecure "
                "(True or False)"
            )
    policy = spec.options.get("pull_policy", "missing")
    if policy not in images.POLICIES:
        raise UnsupportedOption(f"pull_policy={policy!r} is one of {', '.join(images.POLICIES)}")
    if spec.cpu is not None and spec.cpu != int(spec.cpu):
        raise UnsupportedOption(
            f"cpu={spec.cpu!r}: a virtual machine has whole cores, such as {math.ceil(spec.cpu)}"
        )
    return {
        "memory": spec.memory or MEMORY,
        "cpus": int(spec.cpu or CPUS),
        "labels": {**spec.labels, MARK: "1"},
        "network": network_of(spec),
        "secrets": placeholders.entries or None,
        "max_duration": spec.lifetime + LATER if spec.lifetime else None,
        "ephemeral": True,
        "pull_policy": PullPolicy[images.POLICIES[policy]],
        "registry_insecure": spec.options.get("registry_insecure", False),
    }


async def create(place: Place, sandbox_id: str, spec: SandboxSpec, planned: Mapping[str, Any]) -> Sandbox:
    """Pull and boot. Raises UnsupportedOption, QuotaExceeded or StartFailed; then something may be left."""
    tell = spec.tell or (lambda _line: None)
    image = spec.image or DEFAULT_IMAGE
    log = BootLog(place.home, sandbox_id)
    following = asyncio.create_task(log.follow()) if not place.url else None
    try:
        source = await images.reference(place, image, tell)
        of_disk = Image.oci(source, root_disk=RootDisk.managed(spec.disk)) if spec.disk else source
        session = Sandbox.create_with_progress(sandbox_id, image=of_disk, **planned)
        async with session:
            await _hear(session.progress, images.Progress(image, tell))
            box = await asyncio.wait_for(session.result(), BOOT)
    except MicrosandboxError as error:
        raise _meaning(place, sandbox_id, image, error, log) from error
    except asyncio.TimeoutError as error:
        raise StartFailed(
            f"{place.label} did not make {sandbox_id} in time: try again. {log.paragraph()}"
        ) from error
    finally:
        if following:
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await following
        log.close()
    return box


async def _hear(progress: Any, heard: images.Progress) -> None:
    events = progress.__aiter__()
    with contextlib.suppress(StopAsyncIteration):
        while True:
            heard.hear(await asyncio.wait_for(events.__anext__(), PULL))


def _meaning(
    place: Place, sandbox_id: str, image: str, error: MicrosandboxError, log: BootLog
) -> SandboxError:
    if isinstance(error, (InvalidConfigError, UnsupportedError)) and "image" not in str(error):
        return UnsupportedOption(f"{place.label} can't make such a sandbox: {error}")
    meant = images.refusal(error, image)
    if meant:
        return meant
    said = "" if place.url else f" {log.paragraph()}"
    return StartFailed(f"{place.label} did not boot {sandbox_id}: {error}.{said}")
