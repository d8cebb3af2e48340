"""Ends containers by their sandbox's id alone: by ``destroy``, and when their launcher is gone."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import docker
from docker.errors import APIError, NotFound

from ..local_state import LocalState, base_directory
from .engine import client_of
from .profile import SANDBOX_LABEL

END = f"{__name__}:end"  # for the warden


def state_directory() -> Path:
    """Where the sandboxes of this backend are remembered, made when absent."""
    directory = base_directory() / "docker"
    directory.mkdir(mode=0o700, exist_ok=True)
    return directory


def end(base: str, url: str, *sandbox_ids: str) -> None:
    """Remove what the engine at ``url`` has of these sandboxes and what is remembered; idempotent."""
    client = client_of(url)
    try:
        for sandbox_id in sandbox_ids:
            forget_state(base, sandbox_id)
            remove_containers(client, sandbox_id)
    finally:
        client.close()


def forget_state(base: str, sandbox_id: str) -> None:
    """First, so that a sandbox being destroyed starts no further container."""
    state = LocalState.find(Path(base), sandbox_id)
    if state:
        state.destroy()


def remove_containers(client: docker.APIClient, sandbox_id: str) -> None:
    """Remove the containers of a sandbox, running or not."""
    for container in client.containers(all=True, filters={"label": f"{SANDBOX_LABEL}={sandbox_id}"}):
        remove(client, container["Id"])


def remove(client: docker.APIClient, container: str) -> None:
    """Remove one container; another may be removing it, too."""
    try:
        client.remove_container(container, force=True, v=True)
    except NotFound:
        return
    except APIError as error:
        # Podman answers 500 while another removal is under way.
        if client.containers(all=True, filters={"id": container}) and error.status_code != 409:
            raise


def end_without_engine(container: str) -> None:
    """Kill a container's processes, known by its id in their cgroup, and the monitor in its arguments."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it is gone, or another user's
            groups = (entry / "cgroup").read_text()
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if container in groups or (b"conmon" in words[0] and container.encode() in words):
                os.kill(int(entry.name), signal.SIGKILL)
