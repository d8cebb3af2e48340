"""A Podman service of the tests' own: storage in the tests' cache, sockets in a temporary directory."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import docker

from .images import cache, sha256, tree_archive, why_no_images

WAIT = 30.0  # seconds for the service to listen
# On a hybrid layout of cgroups crun takes the empty unified hierarchy for the whole; without it, it uses v1.
SERVE = 'umount /sys/fs/cgroup/unified 2>/dev/null; exec "$@"'
NEEDED = {
    "podman": "podman",
    "crun": "crun",
    "conmon": "conmon",
    "unshare": "util-linux",
}


@dataclass(frozen=True)
class Podman:
    """A running service."""

    IMAGE: ClassVar[str] = "localhost/metaflow-sandbox-test:latest"

    url: str
    process: subprocess.Popen[bytes]
    words: tuple[str, ...]


def why_no_podman() -> str | None:
    """What is missing for an engine, None when nothing is."""
    missing = sorted(package for program, package in NEEDED.items() if not shutil.which(program))
    if missing:
        return f"Podman's parts are missing: apt-get install {' '.join(missing)}"
    if not shutil.which(catatonit()):
        return "Podman's init is missing: apt-get install catatonit"
    return why_no_images()


def in_namespace() -> list[str]:
    """What starts a program where crun works."""
    return ["unshare", "--mount", "sh", "-c", SERVE, "sh"]


def podman_words(storage: Path) -> tuple[str, ...]:
    """Podman with that storage, and nothing of the machine's own."""
    return (
        "podman",
        *("--root", str(storage / "root"), "--runroot", str(runroot(storage))),
        *("--cgroup-manager", "cgroupfs", "--runtime", "crun", "--storage-driver", driver()),
    )


def runroot(storage: Path) -> Path:
    """What a storage needs until the next boot; Podman takes at most 50 characters."""
    return Path(f"/tmp/podman-{sha256(bytes(storage))[:8]}")


def driver() -> str:
    """Overlay needs a real file system below."""
    kind = subprocess.run(
        ["stat", "-f", "-c", "%T", cache()], check=True, capture_output=True, text=True
    ).stdout.strip()
    return "vfs" if kind == "overlayfs" else "overlay"


@contextlib.contextmanager
def podman_service(storage: Path | None = None, insecure: Iterable[str] = ()) -> Iterator[Podman]:
    """Serve from ``storage``, or from the one in the cache, which is shared by all who run tests.

    Registries at the addresses ``insecure`` are asked by plain http.
    """
    kept = storage or cache() / "podman"
    kept.mkdir(exist_ok=True)
    words = podman_words(kept)
    with (kept / "users").open("w") as users:
        with locked(kept):
            fcntl.flock(users, fcntl.LOCK_SH)
            ensure_image(words)
        try:
            with serving(words, insecure) as service:
                yield service
        finally:
            with locked(kept), contextlib.suppress(BlockingIOError):
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # The last one: what killed tests left in the storage, and what is of this boot only.
                ask(words, "rm", "--all", "--force").check_returncode()
                shutil.rmtree(runroot(kept), ignore_errors=True)


@contextlib.contextmanager
def locked(storage: Path) -> Iterator[None]:
    """One at a time."""
    with (storage / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def ensure_image(words: tuple[str, ...]) -> None:
    """Load the image into the storage unless it is there."""
    if ask(words, "image", "exists", Podman.IMAGE).returncode:
        ask(words, "import", "--quiet", str(tree_archive()), Podman.IMAGE).check_returncode()


def ask(words: tuple[str, ...], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run podman by itself: with CONTAINER_HOST it would ask the service that is named there."""
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
    command = [*in_namespace(), *words, *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, env=environment)


@contextlib.contextmanager
def serving(words: tuple[str, ...], insecure: Iterable[str]) -> Iterator[Podman]:
    """A service, until the context ends or this process does."""
    with tempfile.TemporaryDirectory(prefix="podman-", dir="/tmp") as place:
        path, log, registries = Path(place, "engine.sock"), Path(place, "log"), Path(place, "registries.conf")
        registries.write_text(
            "".join(f'[[registry]]\nlocation = "{address}"\ninsecure = true\n' for address in insecure)
        )
        with log.open("wb") as written:
            process = subprocess.Popen(
                # Podman's monitors become orphans at once: catatonit buries them.
                [
                    *in_namespace(),
                    catatonit(),
                    "--",
                    *words,
                    "system",
                    "service",
                    "--time",
                    "0",
                    f"unix://{path}",
                ],
                stdin=subprocess.DEVNULL,
                stdout=written,
                stderr=written,
                # Its own session: what a test sends to the tests' group must not reach it.
                start_new_session=True,
                # Monitors leave notes where they are.
                cwd=place,
                env={
                    "PATH": os.environ["PATH"],
                    "HOME": place,
                    "XDG_RUNTIME_DIR": place,
                    "CONTAINERS_REGISTRIES_CONF": str(registries),
                },
            )
        try:
            await_socket(path, process, log)
            yield Podman(f"unix://{path}", process, words)
        finally:
            process.terminate()
            process.wait(WAIT)


def catatonit() -> str:
    """Podman's own init, where Debian or others have it."""
    return shutil.which("catatonit", path="/usr/libexec/podman:/usr/bin") or "catatonit"


def await_socket(path: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return once the engine answers."""
    deadline = time.monotonic() + WAIT
    while time.monotonic() < deadline and process.poll() is None:
        if path.exists():
            with contextlib.suppress(Exception):
                docker.APIClient(base_url=f"unix://{path}", version="auto").close()
                return
        time.sleep(0.05)
    raise RuntimeError(f"Podman's service does not listen: {log.read_text()}")
