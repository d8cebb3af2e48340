"""Platforms of sandboxes: conda's names, which Metaflow uses, and those that uv takes."""

from __future__ import annotations

import platform
import re
import sys

from ..errors import UnsupportedOption

SETTING = "METAFLOW_SANDBOX_TARGET_PLATFORM"
UV_NAMES = {
    "linux-64": "x86_64-unknown-linux-gnu",
    "linux-aarch64": "aarch64-unknown-linux-gnu",
    "osx-64": "x86_64-apple-darwin",
    "osx-arm64": "aarch64-apple-darwin",
}
_UV_NAME = re.compile(r"(x86_64|aarch64|riscv64|powerpc64le|s390x|armv7)-[a-z0-9_-]+")


def conda_name(system: str, machine: str) -> str:
    """Conda's name of a platform, from what ``platform`` says of it."""
    arm = machine in ("aarch64", "arm64")
    if system == "Darwin":
        return "osx-arm64" if arm else "osx-64"
    return "linux-aarch64" if arm else "linux-64"


def of_sandboxes(chosen: str | None, *, hosted: bool) -> str:
    """Conda's name of the platform of sandboxes, or what was ``chosen``.

    ``hosted`` is for backends that run the launcher's own programs; all others run Linux.
    """
    return chosen or conda_name(platform.system() if hosted else "Linux", platform.machine())


def uv_name(name: str) -> str:
    """What uv calls a platform. Raises UnsupportedOption for none."""
    if name in UV_NAMES:
        return UV_NAMES[name]
    if _UV_NAME.fullmatch(name):
        return name
    raise UnsupportedOption(
        f"{SETTING} is one of {', '.join(UV_NAMES)} or a platform of uv's such as x86_64-manylinux_2_28; "
        f"it is {name!r}"
    )


def own_python() -> str:
    """Version of this Python, as X.Y."""
    return f"{sys.version_info[0]}.{sys.version_info[1]}"
