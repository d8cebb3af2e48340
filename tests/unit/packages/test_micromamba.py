"""micromamba for the sandbox's platform: the one that was named, the launcher's own, or a download."""

from __future__ import annotations

import bz2
import io
import struct
import tarfile
from pathlib import Path

import pytest

from metaflow_extensions.sandbox.errors import PackagesFailed
from metaflow_extensions.sandbox.packages.cache import PackageCache
from metaflow_extensions.sandbox.packages.micromamba import find, fits

from .parts import index


def elf(machine: int) -> bytes:
    return struct.pack("<4s14xH", b"\x7fELF", machine) + b"rest"


@pytest.fixture
def programs(tmp_path: Path) -> dict[str, Path]:
    """A binary for each of two machines, and a script."""
    contents = {"x86": elf(62), "arm": elf(183), "script": b"#!/bin/sh\n", "short": b"\x7fELF"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    return {name: tmp_path / name for name in contents}


def test_binaries_are_told_apart(programs: dict[str, Path]) -> None:
    """Guards a Mac, or an Arm machine, whose own micromamba runs in no Linux sandbox on x86-64."""
    assert fits(programs["x86"], "linux-64")
    assert fits(programs["arm"], "linux-aarch64")
    assert fits(programs["script"], "linux-64")
    for program in ("arm", "short", "absent"):
        assert not fits(programs.get(program, Path("/absent")), "linux-64")
    assert not fits(programs["x86"], "osx-arm64")


def test_choice_then_own(programs: dict[str, Path], tmp_path: Path) -> None:
    """Guards METAFLOW_SANDBOX_MICROMAMBA_PATH, and that a wrong one is told and not passed over."""
    cache, own = PackageCache(tmp_path / "cache"), str(programs["x86"])
    assert find("linux-64", str(programs["script"]), own, [], cache) == programs["script"]
    assert find("linux-64", None, own, [], cache) == programs["x86"]
    with pytest.raises(PackagesFailed, match="METAFLOW_SANDBOX_MICROMAMBA_PATH"):
        find("linux-64", str(programs["arm"]), own, [], cache)


def test_it_is_downloaded_once(programs: dict[str, Path], tmp_path: Path) -> None:
    """Guards another platform than the launcher's: fetched from the first address that has it, and kept."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        archive.add(programs["arm"], "bin/micromamba")
    cache = PackageCache(tmp_path / "cache")
    with index({"m": bz2.compress(target.getvalue()), "bad": b"nothing"}) as served:
        urls = [f"{served.url}/files/{name}" for name in ("absent", "bad", "m")]
        found = find("linux-aarch64", None, str(programs["x86"]), urls, cache)
        assert find("linux-aarch64", None, None, urls, cache) == found
        assert served.fetched("m") == 1
    assert found.read_bytes() == elf(183)
    assert found.stat().st_mode & 0o777 == 0o755


def test_without_one_the_message_names_the_settings(tmp_path: Path) -> None:
    """Guards a machine without a network."""
    with index({}) as served, pytest.raises(PackagesFailed, match=r"MICROMAMBA_PATH.*STAGE_MICROMAMBA"):
        find("linux-64", None, None, [f"{served.url}/files/m"], PackageCache(tmp_path))
