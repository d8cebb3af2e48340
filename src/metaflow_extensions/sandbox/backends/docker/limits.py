"""What an engine can limit, by its own word, remembered for a while: Podman takes long to give it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import docker

from ..interface import Feature
from ..local_state import base_directory

VALID = 600  # seconds; an engine that is started anew has another socket, and is asked again


def limits(client: docker.APIClient, socket: Path, podman: str | None) -> frozenset[Feature]:
    """The limits that the engine's kernel enforces, and GPU; ``podman`` is the version of its own API."""
    found = socket.stat()
    identity = f"{socket} {found.st_dev} {found.st_ino} {found.st_ctime_ns}"
    kept = base_directory() / f"engine-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.json"
    with contextlib.suppress(FileNotFoundError):
        if time.time() - kept.stat().st_mtime < VALID:
            return frozenset(Feature[name] for name in json.loads(kept.read_text()))
    asked = limits_of_podman(_podman_info(client, podman)) if podman else limits_of_docker(client.info())
    draft = kept.with_suffix(f".{os.getpid()}")
    with contextlib.suppress(OSError):  # a full disk: it is asked again
        draft.write_text(json.dumps(sorted(feature.name for feature in asked)))
        draft.rename(kept)
    return asked


def limits_of_docker(info: Mapping[str, Any]) -> frozenset[Feature]:
    """What Docker's /info says."""
    can = {
        Feature.MEMORY_LIMIT: info.get("MemoryLimit"),
        Feature.CPU_LIMIT: info.get("CpuCfsQuota"),
        Feature.PROCESS_LIMIT: info.get("PidsLimit"),
        Feature.GPU: "nvidia" in (info.get("Runtimes") or ()),
    }
    return frozenset(feature for feature, able in can.items() if able)


def limits_of_podman(info: Mapping[str, Any]) -> frozenset[Feature]:
    """What the controllers in Podman's own /info allow.

    Its imitation of Docker's names each limit that the machine has, also where a rootless Podman has none and
    passes over what it is asked for; as it does with devices.
    """
    controllers = (info.get("host") or {}).get("cgroupControllers") or ()
    can = {"memory": Feature.MEMORY_LIMIT, "cpu": Feature.CPU_LIMIT, "pids": Feature.PROCESS_LIMIT}
    return frozenset(feature for name, feature in can.items() if name in controllers)


def _podman_info(client: docker.APIClient, version: str) -> Mapping[str, Any]:
    answer = client.get(f"{client.base_url}/v{version}/libpod/info", timeout=client.timeout)
    answer.raise_for_status()
    info: Mapping[str, Any] = answer.json()
    return info
