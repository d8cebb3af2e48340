"""Why bubblewrap can't run on a machine, and the one thing that mends it."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

from ..seccomp import supported
from .binary import CHOICE
from .identity import SETPRIV_REMEDY

_CONTAINER_MARKS = ("/.dockerenv", "/run/.containerenv")


@dataclass(frozen=True)
class Host:
    """What decides whether bwrap can run; a setting that this kernel lacks is None."""

    system: str = "linux"
    machine: str = "x86_64"
    root: bool = False
    max_user_namespaces: int | None = None
    unprivileged_userns_clone: int | None = None
    apparmor_restricts: int | None = None
    container: bool = False

    @classmethod
    def here(cls, proc_sys: Path = Path("/proc/sys")) -> Host:
        """This machine, as the settings below /proc/sys describe it."""
        return cls(
            system=sys.platform,
            machine=platform.machine(),
            root=os.geteuid() == 0,
            max_user_namespaces=_setting(proc_sys / "user/max_user_namespaces"),
            unprivileged_userns_clone=_setting(proc_sys / "kernel/unprivileged_userns_clone"),
            apparmor_restricts=_setting(proc_sys / "kernel/apparmor_restrict_unprivileged_userns"),
            container=any(Path(mark).exists() for mark in _CONTAINER_MARKS),
        )


def foreseen(host: Host) -> str | None:
    """What is wrong before anything is tried; None when it may work."""
    if not host.system.startswith("linux"):
        return f"the bubblewrap backend needs Linux, and this is {host.system!r}: choose another backend"
    if not supported(host.machine):
        return (
            f"the bubblewrap backend has no seccomp filter for {host.machine!r}: "
            "run on x86_64 or aarch64, or choose another backend"
        )
    return None


def explain(said: str, host: Host) -> str:
    """The likely cause and the remedy, for what bwrap said when it failed."""
    return f"{_remedy(said, host)} ({said.strip() or 'it said nothing'})"


def _remedy(said: str, host: Host) -> str:
    if "setpriv" in said:
        return f"a sandbox started by root needs util-linux's setpriv: {SETPRIV_REMEDY}"
    if not host.root:
        if host.max_user_namespaces == 0:
            return "user namespaces are disabled: sysctl user.max_user_namespaces=15000"
        if host.unprivileged_userns_clone == 0:
            return "user namespaces are closed to normal users: sysctl kernel.unprivileged_userns_clone=1"
        if host.apparmor_restricts == 1:
            return (
                "AppArmor keeps programs without a profile from using user namespaces: "
                "apt install bubblewrap, give /usr/bin/bwrap a profile with the rule 'userns,' and set "
                f"{CHOICE} to it, or sysctl kernel.apparmor_restrict_unprivileged_userns=0"
            )
    if host.container:
        return (
            "the container that this runs in forbids namespaces: start it with --privileged, or with "
            "--security-opt seccomp=unconfined --security-opt systempaths=unconfined "
            "(and for root --cap-add SYS_ADMIN)"
        )
    if "seccomp" in said.lower() or "prctl" in said.lower():
        return "this kernel can't filter system calls: run one with CONFIG_SECCOMP_FILTER"
    if host.root and ("Operation not permitted" in said or "Permission denied" in said):
        return "root lacks CAP_SYS_ADMIN here: run with it, or as a normal user"
    return "bubblewrap can't make a sandbox here: mend what it says, or choose another backend"


def _setting(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        # Absent on this kernel, or hidden in a container.
        return None
