"""Ends containers by their sandbox's id alone: by ``destroy``, and when their launcher is gone."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import docker
from docker.errors import APIError, NotFound

from .. import local_state
from ..local_state import LocalState
from .engine import client_of
from .profile import SANDBOX_LABEL

END = f"{__name__}:end"  # for the warden


def state_directory() -> Path:
    """Where the sandboxes of this backend are remembered, made when absent."""
    return local_state.state_directory("docker")


def end(base: str, url: str, *sandbox_ids: str) -> None:
    """Remove what the engine at ``url`` has of these sandboxes and what is remembered; idempotent."""
    client = client_of(url)
    try:
        # An engine takes a label without a value for any value.
        for sandbox_id in filter(LocalState.is_id, sandbox_ids):
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
    """Kill a container's processes, known by its id in their cgroup or, for Podman, in their parent's words.

    That parent, the engine's monitor, notes how they end, for the next engine to read.
    """
    monitors, found = set(), []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it is gone, or another user's
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if b"conmon" in words[0] and container.encode() in words:
                monitors.add(entry.name)
            else:
                parent = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[1]
                found.append((entry.name, parent, (entry / "cgroup").read_text()))
    for pid, parent, groups in found:
        if parent in monitors or container in groups:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(int(pid), signal.SIGKILL)
