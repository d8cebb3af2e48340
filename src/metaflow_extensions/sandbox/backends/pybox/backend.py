"""Containers of pybox, a container runtime in Python: a foreground run for each command.

A step sees its image read-only, as the user root without any capability, under the project's filter on system
calls, and can write to one file system in memory (``disk``, default 1024 MiB): its working directory,
HOME, TMPDIR, /tmp, /var/tmp and /dev/shm. It shares the kernel with the host.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator, Mapping

from ...errors import BackendUnavailable, UnsupportedOption
from ..default_image import DEFAULT_IMAGE
from ..interface import Feature, Isolation, SandboxInfo, SandboxSpec
from ..local_sandbox import limit_features, watched_state
from ..local_state import LocalState
from ..options import check_options, refuse_backend_options
from .leftovers import END, end, state_directory
from .program import executable
from .sandbox import PyboxSandbox

NAME = "pybox"
FEATURES = frozenset({Feature.STDIN, Feature.IMAGE, Feature.NETWORK_OFF, Feature.DISK_LIMIT})


class PyboxBackend:
    """pybox as root; it ignores its own options for volumes and networks, so that none is offered."""

    isolation = Isolation.CONTAINER
    default_image = DEFAULT_IMAGE

    def __init__(self) -> None:
        self.features = FEATURES | limit_features()

    def check(self) -> None:
        """Raise BackendUnavailable unless this user can start sandboxes."""
        if not sys.platform.startswith("linux") or platform.machine() != "x86_64":
            raise BackendUnavailable("pybox runs on Linux on x86-64: choose another backend")
        if os.geteuid():
            raise BackendUnavailable(
                "the pybox backend mounts images, and is not root: run as root, or use backend='bubblewrap'"
            )
        if not shutil.which("unshare"):
            raise BackendUnavailable("the pybox backend needs unshare: apt-get install util-linux")
        executable()

    def open(self, spec: SandboxSpec) -> PyboxSandbox:
        """Prepare a sandbox, and pull its image; nothing of the user's runs yet.

        Raises UnsupportedOption, also for an image that does not exist, and StartFailed.
        """
        check_options(spec, self, NAME)
        refuse_backend_options(spec, NAME)
        self.check()
        image = DEFAULT_IMAGE if spec.image is None else spec.image
        if not image or "\0" in image:
            raise UnsupportedOption(f"image={image!r} is no name: name a public image of Docker Hub")
        state, guard = watched_state(state_directory(), spec.labels, END)
        sandbox = PyboxSandbox(image, spec, state, guard)
        try:
            sandbox.ensure_image()
        except BaseException:
            sandbox.close()
            raise
        return sandbox

    def list(self, labels: Mapping[str, str]) -> Iterator[SandboxInfo]:
        """Sandboxes of this user, also those whose launcher died and left only their directory."""
        return LocalState.described(state_directory(), labels)

    def destroy(self, sandbox_id: str) -> None:
        """End a sandbox of any process of this user; idempotent."""
        end(str(state_directory()), sandbox_id)
