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


def limits(client: docker.APIClient, socket: Path, *, is_podman: bool) -> frozenset[Feature]:
    """The limits that the engine's kernel enforces, and GPU; rootless engines often have few."""
    found = socket.stat()
    identity = f"{socket} {found.st_dev} {found.st_ino} {found.st_ctime_ns}"
    kept = base_directory() / f"engine-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.json"
    with contextlib.suppress(FileNotFoundError):
        if time.time() - kept.stat().st_mtime < VALID:
            return frozenset(Feature[name] for name in json.loads(kept.read_text()))
    asked = limits_of(client.info(), is_podman=is_podman)
    draft = kept.with_suffix(f".{os.getpid()}")
    with contextlib.suppress(OSError):  # a full disk: it is asked again
        draft.write_text(json.dumps(sorted(feature.name for feature in asked)))
        draft.rename(kept)
    return asked


def limits_of(info: Mapping[str, Any], *, is_podman: bool) -> frozenset[Feature]:
    """What an answer of /info says."""
    can = {
        Feature.MEMORY_LIMIT: info.get("MemoryLimit"),
        Feature.CPU_LIMIT: info.get("CpuCfsQuota"),
        Feature.PROCESS_LIMIT: info.get("PidsLimit"),
        # Podman passes over what is asked for devices.
        Feature.GPU: "nvidia" in (info.get("Runtimes") or ()) and not is_podman,
    }
    return frozenset(feature for feature, able in can.items() if able)
