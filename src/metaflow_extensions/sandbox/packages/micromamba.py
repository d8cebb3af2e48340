"""micromamba for the platform of sandboxes: found, or downloaded once."""

from __future__ import annotations

import bz2
import io
import struct
import tarfile
import tempfile
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from ..errors import PackagesFailed
from .cache import PackageCache

SETTING = "METAFLOW_SANDBOX_MICROMAMBA_PATH"
STAGE = "METAFLOW_SANDBOX_STAGE_MICROMAMBA"
VERSION = "2.0.4"  # the one that Metaflow's own bootstrap downloads
TIMEOUT = 60.0  # seconds without a byte
MEMBER = "bin/micromamba"
ELF = struct.Struct("<4s14xH")  # magic and machine, elf(5)
MACHINES = {"linux-64": 62, "linux-aarch64": 183}  # EM_X86_64 and EM_AARCH64, elf.h


def fits(program: Path, platform: str) -> bool:
    """Whether a program runs on that platform; a script is taken to run on any."""
    try:
        with program.open("rb") as file:
            head = file.read(ELF.size)
    except OSError:
        return False
    if head.startswith(b"#!"):
        return True
    if platform not in MACHINES:
        return not head.startswith(b"\x7fELF")
    return len(head) == ELF.size and ELF.unpack(head) == (b"\x7fELF", MACHINES[platform])


def find(
    platform: str, chosen: str | None, launchers: str | None, urls: Sequence[str], cache: PackageCache
) -> Path:
    """The one that is ``chosen``, the launcher's own, the cache's, or one from the first URL that answers.

    Raises PackagesFailed when there is none for the platform.
    """
    if chosen:
        path = Path(chosen).expanduser()
        if not fits(path, platform):
            raise PackagesFailed(f"{SETTING}={chosen!r} is no program for {platform}: correct or unset it")
        return path
    if launchers and fits(Path(launchers), platform):
        return Path(launchers)
    kept = cache.directory / "micromamba" / f"{VERSION}-{platform}"
    if not kept.exists():
        _download(kept, urls, cache)
    return kept


def _download(target: Path, urls: Sequence[str], cache: PackageCache) -> None:
    failures = []
    for url in urls:
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:  # noqa: S310 -- Metaflow's own addresses
                packed = answer.read()
            with tarfile.open(fileobj=io.BytesIO(bz2.decompress(packed)), mode="r:") as archive:
                member = archive.extractfile(MEMBER)
                program = member.read() if member else b""
        except (
            urllib.error.URLError,
            TimeoutError,
            OSError,
            ValueError,
            KeyError,
            tarfile.TarError,
        ) as error:
            failures.append(f"{url}: {error}")
            continue
        with cache.writing():
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as draft:
                draft.write(program)
            Path(draft.name).chmod(0o755)
            Path(draft.name).rename(target)
        return
    raise PackagesFailed(
        f"@conda and @pypi need micromamba inside, and it can't be downloaded ({'; '.join(failures)}): name "
        f"a binary for the sandbox's platform with {SETTING}, or set {STAGE}=0 and use an image that has it"
    )
