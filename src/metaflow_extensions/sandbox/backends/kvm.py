"""Whether a virtual machine can run here, found out at once: a boot that fails takes half a minute."""

from __future__ import annotations

import errno
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from ..errors import BackendUnavailable

DEVICE = Path("/dev/kvm")
CPU = Path("/proc/cpuinfo")
OLDEST_MACOS = (12, 0)
# linux/kvm.h
_GET_API_VERSION, _CREATE_VM, _CREATE_VCPU = 0xAE00, 0xAE01, 0xAE41
_API_VERSION = 12
_MIB = 1 << 20


def check_machine(name: str) -> None:
    """Raise BackendUnavailable unless this machine lets this user run virtual machines.

    ``name`` is the backend's. A pass is no promise: a hypervisor around this machine may let virtual
    machines be made and not run.
    """
    if sys.platform == "darwin":
        check_macos(name, platform.mac_ver()[0], platform.machine(), _hypervisor_support())
    elif sys.platform.startswith("linux"):
        check_kvm(name)
    else:
        raise BackendUnavailable(
            f"the {name} backend needs Linux with KVM or macOS on Apple silicon, and this is {sys.platform}: "
            "choose another backend"
        )


def check_kvm(name: str, device: Path = DEVICE, cpu: Path = CPU) -> None:
    """Raise BackendUnavailable unless KVM makes a virtual machine with a processor, which is given back."""
    try:
        opened = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise BackendUnavailable(
            f"the {name} backend needs KVM, and {_why_closed(error, device, cpu)}"
        ) from error
    try:
        _make_machine(opened)
    except OSError as error:
        raise BackendUnavailable(
            f"the {name} backend needs KVM, and {device} can't make a virtual machine ({error.strerror}): "
            f"{_unusable(error)}"
        ) from error
    finally:
        os.close(opened)


def check_macos(name: str, version: str, machine: str, support: bool) -> None:
    """Raise BackendUnavailable unless macOS of that version on that machine has Apple's hypervisor."""
    if machine != "arm64":
        raise BackendUnavailable(
            f"the {name} backend needs Apple silicon, and this is macOS on {machine}: choose another backend"
        )
    if tuple(map(int, version.split(".")[:2])) < OLDEST_MACOS:
        oldest = ".".join(map(str, OLDEST_MACOS))
        raise BackendUnavailable(
            f"the {name} backend needs macOS {oldest} or newer, and this is {version}: "
            "softwareupdate --install --all, or choose another backend"
        )
    if not support:
        raise BackendUnavailable(
            f"the {name} backend needs Apple's hypervisor, which this machine does not offer "
            "(sysctl kern.hv_support is not 1): a virtual machine needs nested virtualization (M3, macOS 15)"
        )


def check_space(name: str, directory: Path, mebibytes: int) -> None:
    """Raise BackendUnavailable unless the directory's file system has so much free space."""
    existing = next(place for place in (directory, *directory.parents) if place.exists())
    free = shutil.disk_usage(existing).free // _MIB
    if free < mebibytes:
        raise BackendUnavailable(
            f"the {name} backend keeps images and disks in {directory}, where {free} MiB are free and "
            f"{mebibytes} are needed: free some (df -h {existing})"
        )


def _make_machine(opened: int) -> None:
    from fcntl import ioctl

    version = ioctl(opened, _GET_API_VERSION, 0)
    if version != _API_VERSION:
        raise OSError(errno.ENOSYS, f"its interface has version {version}, not {_API_VERSION}")
    machine = ioctl(opened, _CREATE_VM, 0)
    try:
        os.close(ioctl(machine, _CREATE_VCPU, 0))
    finally:
        os.close(machine)


def _why_closed(error: OSError, device: Path, cpu: Path) -> str:
    if isinstance(error, PermissionError):
        return f"{device} may not be opened by this user: sudo usermod -aG kvm $USER, and log in again"
    if not isinstance(error, FileNotFoundError):
        return f"{device} can't be opened ({error.strerror}): reload its module with sudo modprobe"
    flags = cpu.read_text(errors="replace").split() if cpu.exists() else []
    for flag, module in (("vmx", "kvm_intel"), ("svm", "kvm_amd")):
        if flag in flags:
            return f"there is no {device}: sudo modprobe {module}, or give a container --device {device}"
    if "hypervisor" in flags:
        return (
            f"there is no {device}, as this is a virtual machine without nested virtualization: switch that "
            "on where it is made, or choose another backend"
        )
    return (
        f"there is no {device}: switch on virtualization (VT-x, AMD-V) in the firmware, or sudo modprobe kvm"
    )


def _unusable(error: OSError) -> str:
    if error.errno in (errno.EBUSY, errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        return "another hypervisor or too many machines use it: end them"
    return (
        "this is probably a virtual machine whose nested virtualization is broken: switch it on where it is "
        "made, or choose another backend"
    )


def _hypervisor_support() -> bool:
    said = subprocess.run(["/usr/sbin/sysctl", "-n", "kern.hv_support"], capture_output=True, check=False)
    return said.stdout.strip() == b"1"
