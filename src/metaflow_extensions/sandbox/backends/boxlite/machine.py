"""What a sandbox is asked for, in the SDK's words."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from boxlite import BoxOptions, NetworkSpec, OutboundNetworkSpec

from ...errors import UnsupportedOption
from ..inner_files import PYTHON
from ..interface import SandboxSpec

DEFAULT = f"python:{sys.version_info[0]}.{sys.version_info[1]}-slim"
GIB = 1024  # MiB
IDLE = 900  # seconds after which a server may stop a box that nobody uses, and later remove it
# What the box itself runs, whatever the image says: it lasts, buries orphans, and ends when it is told to.
MAIN = (
    "import os, signal\n"
    "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
    "signal.signal(signal.SIGTERM, lambda *_: os._exit(0))\n"
    "while True: signal.pause()"
)


def machine(spec: SandboxSpec, *, remote: bool) -> BoxOptions:
    """The SDK's options. Raises UnsupportedOption for what it would forget or round."""
    if spec.options:
        raise UnsupportedOption(
            f"backend_options {', '.join(spec.options)}: the boxlite backend has none, leave them out"
        )
    if spec.cpu is not None and not (spec.cpu == int(spec.cpu) and spec.cpu < 256):
        raise UnsupportedOption(f"cpu={spec.cpu}: a virtual machine has whole cores, up to 255")
    if spec.disk is not None and spec.disk % GIB:
        raise UnsupportedOption(
            f"disk={spec.disk}: BoxLite's disks are whole GiB, such as {-(-spec.disk // GIB) * GIB}"
        )
    image = spec.image or DEFAULT
    layout = Path(image).is_dir() or image.startswith(("/", "./", "../"))
    if layout and remote:
        raise UnsupportedOption(
            f"image={image!r}: a directory of this machine is not on the server, name a reference"
        )
    own: dict[str, Any] = {"rootfs_path": str(Path(image).absolute())} if layout else {"image": image}
    if remote:
        own |= {"auto_stop": IDLE, "auto_delete": 2 * IDLE}
    return BoxOptions(
        **own,
        cpus=int(spec.cpu) if spec.cpu else None,
        memory_mib=spec.memory,
        disk_size_gb=spec.disk // GIB if spec.disk else None,
        network=NetworkSpec(outbound=OutboundNetworkSpec(mode="disabled")),
        user="root",
        entrypoint=[PYTHON],
        cmd=["-I", "-S", "-c", MAIN],
        auto_remove=False,
        detach=False,
    )
