"""Small images made on this machine: a Debian with Python, as a tar file, a directory and an OCI layout.

    tree_archive()  its files as one tar file
    tree()          its files as a directory, to be used and not written to
    layout()        an OCI layout: index.json, and blobs below blobs/sha256
    layout_archive()  the same as one tar file

Each is made once and kept in METAFLOW_SANDBOX_TESTS_CACHE, by default below ~/.cache. To make all of them
ahead of the tests, run ``python -m tests.integration.images``.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).parents[2] / "scripts" / "test-image"
CACHE = "METAFLOW_SANDBOX_TESTS_CACHE"
OCI = "application/vnd.oci.image"
MANIFEST = f"{OCI}.manifest.v1+json"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def why_no_images() -> str | None:
    """What is missing to make images, None when nothing is."""
    if os.geteuid():
        return "images are made by root"
    if not shutil.which("mmdebstrap"):
        return "images are made by mmdebstrap: apt-get install mmdebstrap"
    return None


def cache() -> Path:
    """Where images are kept from one run of the tests to the next, by what they are made from."""
    given = os.environ.get(CACHE)
    below = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    base = Path(given) if given else below / "metaflow-sandbox-tests"
    made_from = SCRIPT.read_bytes() + Path(__file__).read_bytes()
    place = base / hashlib.sha256(made_from).hexdigest()[:16]
    place.mkdir(parents=True, exist_ok=True)
    return place


def made_once(name: str, make: Callable[[Path], object]) -> Path:
    """The cache's entry of that name, made by the first of all processes that ask for it."""
    place = cache() / name
    with (cache() / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.exists():
            draft = cache() / f"{name}.draft"
            shutil.rmtree(draft, ignore_errors=True)
            make(draft)
            draft.rename(place)
    return place


def tree_archive() -> Path:
    """The image's files as a tar file."""

    def build(draft: Path) -> None:
        built = subprocess.run([SCRIPT, draft], stderr=subprocess.PIPE, text=True, check=False)
        if built.returncode:
            raise RuntimeError(f"{SCRIPT} failed: {built.stderr}")

    return made_once("rootfs.tar", build)


def tree() -> Path:
    """The image's files as a directory."""

    def unpack(draft: Path) -> None:
        draft.mkdir()
        subprocess.run(["tar", "-xpf", archive, "-C", draft, "--exclude=./dev/*"], check=True)

    archive = tree_archive()
    return made_once("rootfs", unpack)


def layout() -> Path:
    """The image as an OCI layout with one manifest and one layer."""

    def make(draft: Path) -> None:
        (draft / "blobs" / "sha256").mkdir(parents=True)
        files = archive.read_bytes()
        add_image(draft, files)

    archive = tree_archive()
    return made_once("layout", make)


def layout_archive() -> Path:
    """The same as one tar file."""
    place = layout()

    def pack(draft: Path) -> None:
        subprocess.run(["tar", "-C", place, "-cf", draft, "."], check=True)

    return made_once("layout.tar", pack)


def add_image(place: Path, files: bytes) -> None:
    """Make an image of one layer from a tar file, as the only one of an OCI layout."""
    blobs = place / "blobs" / "sha256"
    machine = platform.machine()
    config = {
        "architecture": ARCHITECTURES.get(machine, machine),
        "os": "linux",
        # What a sandbox must not take over: its variables, its entrypoint and its user.
        "config": {
            "Env": [f"PATH={PATH}", "OF_THE_IMAGE=1"],
            "Entrypoint": ["/bin/false"],
            "Cmd": ["python3"],
            "User": "root",
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{sha256(files)}"]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": keep(blobs, json.dumps(config).encode(), f"{OCI}.config.v1+json"),
        "layers": [keep(blobs, gzip.compress(files, 1, mtime=0), f"{OCI}.layer.v1.tar+gzip")],
    }
    index = {"schemaVersion": 2, "manifests": [keep(blobs, json.dumps(manifest).encode(), MANIFEST)]}
    (place / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (place / "index.json").write_text(json.dumps(index))


def sha256(content: bytes) -> str:
    """Its digest in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def keep(blobs: Path, content: bytes, media_type: str) -> dict[str, Any]:
    """Write a blob; its descriptor."""
    digest = sha256(content)
    (blobs / digest).write_bytes(content)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}


def main() -> None:
    """Make everything that the tests need, ahead of them."""
    tree()
    layout()


if __name__ == "__main__":
    main()
