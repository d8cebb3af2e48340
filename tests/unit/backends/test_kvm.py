"""What keeps virtual machines from running, and what mends it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from metaflow_extensions.sandbox.backends import kvm
from metaflow_extensions.sandbox.errors import BackendUnavailable


@pytest.mark.parametrize(
    ("flags", "mends"),
    [
        ("fpu vmx sse", "modprobe kvm_intel"),
        ("fpu svm sse", "modprobe kvm_amd"),
        ("fpu hypervisor sse", "nested virtualization"),
        ("fpu sse", "firmware"),
    ],
)
def test_missing_device_names_what_mends_it(tmp_path: Path, flags: str, mends: str) -> None:
    """A machine without virtualization and a module that isn't loaded are mended differently."""
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags : {flags}\n")
    with pytest.raises(BackendUnavailable, match=mends):
        kvm.check_kvm("some", tmp_path / "kvm", tmp_path / "cpuinfo")


def test_missing_permission_names_the_group(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A device that is there and closed is the commonest case of all."""

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(BackendUnavailable, match="usermod -aG kvm"):
        kvm.check_kvm("some", tmp_path / "kvm")


def test_a_device_that_makes_no_machine_is_refused() -> None:
    """A device file proves nothing: containers get one that leads nowhere."""
    with pytest.raises(BackendUnavailable, match="can't make a virtual machine"):
        kvm.check_kvm("some", Path("/dev/null"))


def test_every_descriptor_is_given_back() -> None:
    """A machine that stays open holds memory of the kernel for as long as the launcher lives."""
    before = sorted(Path("/dev/fd").iterdir())
    for device in (kvm.DEVICE, Path("/dev/null")):
        try:
            kvm.check_kvm("some", device)
        except BackendUnavailable as error:
            assert "KVM" in str(error)
    assert sorted(Path("/dev/fd").iterdir()) == before


@pytest.mark.parametrize(
    ("version", "machine", "support", "says"),
    [
        ("14.5", "x86_64", True, "Apple silicon"),
        ("11.7", "arm64", True, "12.0 or newer"),
        ("14.5", "arm64", False, "nested virtualization"),
    ],
)
def test_macs_that_can_not(version: str, machine: str, support: bool, says: str) -> None:
    """Intel's Macs, old systems and virtual machines each need another answer."""
    with pytest.raises(BackendUnavailable, match=says):
        kvm.check_macos("some", version, machine, support)


def test_a_mac_that_can() -> None:
    """Two-digit versions must not be compared as text."""
    kvm.check_macos("some", "15.0.1", "arm64", True)


def test_space_is_measured_where_the_directory_will_be(tmp_path: Path) -> None:
    """A directory that is not made yet has its parents' file system."""
    kvm.check_space("some", tmp_path / "not" / "yet", 1)
    with pytest.raises(BackendUnavailable, match="MiB are free"):
        kvm.check_space("some", tmp_path / "not" / "yet", 1 << 40)
