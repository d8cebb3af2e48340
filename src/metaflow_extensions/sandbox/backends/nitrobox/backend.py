"""Containers without an engine: nitrobox makes namespaces and an overlay of a root file system.

A step sees its image read-only, as a user that owns nothing, under nitrobox's filter on system calls,
and can write to one file system in memory (``disk``, default 1024 MiB): its working directory, HOME, TMPDIR,
/tmp and /var/tmp. It shares the kernel with the host.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Iterator, Mapping

from ...errors import BackendUnavailable
from ..container_places import check_mounts
from ..default_image import DEFAULT_IMAGE
from ..interface import Feature, Isolation, SandboxInfo, SandboxSpec
from ..local_sandbox import limit_features, watched_state
from ..local_state import LocalState
from ..options import check_options, refuse_backend_options
from .images import check_image
from .kept import keeper
from .leftovers import END, end, state_directory
from .sandbox import NitroboxSandbox

NAME = "nitrobox"
FEATURES = frozenset(
    {
        Feature.MOUNT,
        Feature.STDIN,
        Feature.IMAGE,
        Feature.NETWORK_OFF,
        Feature.NETWORK_HOST,
        Feature.DISK_LIMIT,
    }
)


class NitroboxBackend:
    """nitrobox as root; its limits need cgroup v2, so ours are put around it."""

    isolation = Isolation.CONTAINER
    default_image = DEFAULT_IMAGE

    def __init__(self) -> None:
        importlib.metadata.version("nitrobox")  # or ImportError: only the keeper imports it
        self.features = FEATURES | limit_features()

    def check(self) -> None:
        """Raise BackendUnavailable unless this user can start sandboxes."""
        if not sys.platform.startswith("linux"):
            raise BackendUnavailable("nitrobox runs on Linux: choose another backend")
        if os.geteuid():
            raise BackendUnavailable(
                "the nitrobox backend drops from root to nobody inside, and is not root: run as root, or use "
                "backend='bubblewrap'"
            )

    def open(self, spec: SandboxSpec) -> NitroboxSandbox:
        """Prepare a sandbox; nothing runs yet. Raises UnsupportedOption, or StartFailed on a full disk."""
        check_options(spec, self, NAME)
        refuse_backend_options(spec, NAME)
        self.check()
        check_mounts(spec.mounts)
        image = spec.image or DEFAULT_IMAGE
        check_image(image)
        keeper().start()  # while the sandbox is prepared
        state, guard = watched_state(state_directory(), spec.labels, END)
        return NitroboxSandbox(image, spec, state, guard)

    def list(self, labels: Mapping[str, str]) -> Iterator[SandboxInfo]:
        """Sandboxes of this user, also those whose launcher died and left only their directory."""
        return LocalState.described(state_directory(), labels)

    def destroy(self, sandbox_id: str) -> None:
        """End a sandbox of any process of this user; idempotent."""
        end(str(state_directory()), sandbox_id)
