"""microsandbox on this machine, up to the boot: images, registries, and what is left of what does not start.

The SDK, its runtime, its database and its image store are real. The guest's kernel is an empty file, so that
every machine can run these, and a boot fails at once and in the same way.
"""

from __future__ import annotations

import importlib.resources
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from metaflow_extensions.sandbox.backends import kvm
from metaflow_extensions.sandbox.backends.interface import SandboxSpec, Secret
from metaflow_extensions.sandbox.errors import BackendUnavailable, StartFailed, UnsupportedOption

pytest.importorskip("microsandbox", reason="the SDK is not installed: pip install microsandbox")

from metaflow_extensions.sandbox.backends.microsandbox import backend as backends
from metaflow_extensions.sandbox.backends.microsandbox.backend import MicrosandboxBackend
from metaflow_extensions.sandbox.backends.microsandbox.boot_log import KEEP
from metaflow_extensions.sandbox.backends.microsandbox.place import HOME, LONGEST_HOME

from .images import add_image, layout_archive, why_no_images
from .registry import Registry
from .registry import registry as serve

NO_KERNEL = "file too short"  # is what the runtime says of a kernel that is none


@pytest.fixture(scope="session")
def home() -> Iterator[Path]:
    """One home for all tests of a process: the SDK reads the setting once."""
    with tempfile.TemporaryDirectory(prefix="msb", dir="/tmp") as name:
        yield Path(name, "home")


@pytest.fixture(autouse=True)
def surroundings(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundled = Path(str(importlib.resources.files("microsandbox"))) / "_bundled"
    (home.parent / "kernel").write_bytes(b"")
    for name, value in {
        HOME: str(home),
        "MSB_PATH": str(bundled / "bin" / "msb"),
        "MSB_LIBKRUNFW_PATH": str(home.parent / "kernel"),
    }.items():
        monkeypatch.setenv(name, value)
    # Nothing boots: it is not for lack of KVM that it doesn't.
    monkeypatch.setattr(kvm, "check_machine", lambda _name: None)


@pytest.fixture
def backend() -> MicrosandboxBackend:
    return MicrosandboxBackend()


@pytest.fixture(scope="session")
def archive() -> Path:
    """The test image as a tar of an OCI layout."""
    reason = why_no_images()
    if reason:
        pytest.skip(reason)
    return layout_archive()


def fail(backend: MicrosandboxBackend, error: type[Exception], said: str, **changes: Any) -> list[str]:
    """Open a sandbox, which fails as expected; what the user was told."""
    told: list[str] = []
    with pytest.raises(error, match=said):
        backend.open(SandboxSpec(**{"memory": 256, "tell": told.append, **changes}))
    return told


# In a process of its own: who closes the file in the SDK's process takes the SDK's locks away.
COUNT = """
import sqlite3, sys
database = sqlite3.connect(f"file:{sys.argv[1]}/db/msb.db?mode=ro", uri=True)
for table in ("sandbox", "run", "sandbox_labels", "sandbox_rootfs"):
    for (count,) in database.execute(f"SELECT count(*) FROM {table}"):
        if count:
            print(count, "rows in", table)
"""


def left(home: Path) -> list[str]:
    """Rows, files and processes of sandboxes."""
    words = [sys.executable, "-c", COUNT, str(home)]
    rows = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    # Leases of a machine that was killed are taken away by the next boot of whatever other.
    places = [*home.glob("sandboxes/*"), *home.glob("run/[!w]*/*")]
    listing = subprocess.run(["ps", "-A", "-ww", "-o", "command="], capture_output=True, text=True).stdout
    running = [line for line in listing.splitlines() if f"{home}/" in line and "msb" in line.split()[0]]
    return [*rows, *map(str, places), *running]


def test_a_failed_boot_says_why_and_leaves_nothing(
    backend: MicrosandboxBackend, home: Path, archive: Path
) -> None:
    """Guards the runtime's own words, and rows, files and locks that the SDK leaves behind."""
    told = fail(backend, StartFailed, NO_KERNEL, image=str(archive), labels={"a": "b"})
    assert told in ([f"loading the image of {archive}"], [])
    assert list(backend.list({})) == []
    assert left(home) == []


def test_the_logs_can_be_kept(
    backend: MicrosandboxBackend, tmp_path: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards the whole log, for whoever has to look further."""
    monkeypatch.setenv(KEEP, str(tmp_path / "logs"))
    fail(backend, StartFailed, f"The logs are in {tmp_path}/logs/sbx-", image=str(archive))
    (log,) = (tmp_path / "logs").glob("sbx-*/runtime.log")
    assert "entering VM" in log.read_text()


def test_a_secret_is_not_kept(backend: MicrosandboxBackend, home: Path, archive: Path) -> None:
    """Guards the database, whose free pages and log keep values of sandboxes that are gone."""
    value = f"v4lue-{os.urandom(8).hex()}"
    secrets = (Secret("TOKEN", value, ("api.example.org",)),)
    fail(backend, StartFailed, NO_KERNEL, image=str(archive), network="public", secrets=secrets)
    found = subprocess.run(["grep", "-rl", value, home], capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (1, "")
    assert home.stat().st_mode & 0o077 == 0
    # The SDK's own connections have to have survived that.
    assert list(backend.list({})) == []


def test_twenty_at_once(backend: MicrosandboxBackend, home: Path, archive: Path) -> None:
    """Guards one runtime that many tasks share, and the database under all of them."""

    def attempt(number: int) -> None:
        fail(backend, StartFailed, NO_KERNEL, image=str(archive), labels={"n": str(number)})

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(attempt, range(20)))
    assert left(home) == []


def test_two_runs_at_once(home: Path, archive: Path) -> None:
    """Guards a home that two processes use."""
    code = f"""
import sys
from metaflow_extensions.sandbox.backends import kvm
kvm.check_machine = lambda _name: None
from metaflow_extensions.sandbox.backends.interface import SandboxSpec
from metaflow_extensions.sandbox.backends.microsandbox.backend import MicrosandboxBackend
from metaflow_extensions.sandbox.errors import StartFailed
for _ in range(3):
    try:
        MicrosandboxBackend().open(SandboxSpec(image={str(archive)!r}, memory=256))
    except StartFailed as error:
        assert "file too short" in str(error), error
print("both")
"""
    words = [sys.executable, "-c", code]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    runs = [subprocess.Popen(words, env=env, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [run.communicate()[0] for run in runs] == ["both\n", "both\n"]
    assert left(home) == []


def test_a_killed_launcher_leaves_nothing(home: Path, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a boot, its rows and its files that outlive a SIGKILL of the launcher."""
    # With a kernel and KVM, whatever comes of it: that takes long enough to be killed in the middle.
    monkeypatch.delenv("MSB_PATH")
    monkeypatch.delenv("MSB_LIBKRUNFW_PATH")
    code = f"""
import time
from metaflow_extensions.sandbox.backends import kvm
kvm.check_machine = lambda _name: None
from metaflow_extensions.sandbox.backends.interface import SandboxSpec
from metaflow_extensions.sandbox.backends.microsandbox.backend import MicrosandboxBackend
MicrosandboxBackend().open(SandboxSpec(image={str(archive)!r}, memory=256))
time.sleep(600)
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", code], env=env) as other:
        deadline = time.monotonic() + 60
        while not list(home.glob("sandboxes/*/logs/runtime.log")) and time.monotonic() < deadline:
            time.sleep(0.005)
        assert left(home)
        other.kill()
    deadline = time.monotonic() + 15
    while left(home) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left(home) == []


def test_an_image_is_pulled_and_then_there(backend: MicrosandboxBackend, home: Path, tmp_path: Path) -> None:
    """Guards the pull from a registry for real, its progress, and that a second task pulls nothing."""
    (tmp_path / "blobs" / "sha256").mkdir(parents=True)
    files = io.BytesIO()
    with tarfile.open(fileobj=files, mode="w") as archive:
        entry = tarfile.TarInfo("random")  # of no other image
        entry.size = 3 << 20
        archive.addfile(entry, io.BytesIO(os.urandom(entry.size)))
    add_image(tmp_path, files.getvalue())
    with serve(tmp_path) as registry:
        image, insecure = registry.image(), {"registry_insecure": True}
        told = fail(backend, StartFailed, NO_KERNEL, image=image, options=insecure)
        asked = len(registry.asked)
        again = fail(backend, StartFailed, NO_KERNEL, image=image, options=insecure)
    assert told[0] == f"pulling the image {image} (3 MiB)"
    assert told[-1].startswith(f"pulled the image {image} in ")
    assert (again, len(registry.asked)) == ([], asked)
    assert left(home) == []


@pytest.mark.parametrize(
    ("kind", "name", "error", "said"),
    [
        ("open", "sandbox-test/absent:latest", UnsupportedOption, "there is no image"),
        ("open", "sandbox-test/python:other", UnsupportedOption, "there is no image"),
        ("private", "sandbox-test/python:latest", UnsupportedOption, "msb registry login"),
        ("token", "sandbox-test/python:latest", UnsupportedOption, "msb registry login"),
        ("broken", "sandbox-test/python:latest", StartFailed, "can't be pulled.*503"),
    ],
)
def test_registries_that_refuse(
    backend: MicrosandboxBackend,
    registry: Registry,
    home: Path,
    kind: str,
    name: str,
    error: type[Exception],
    said: str,
) -> None:
    """Guards the line between what is tried again and what is not, with a registry's real answers."""
    image = f"{registry.addresses[kind]}/{name}"
    fail(backend, error, said, image=image, options={"registry_insecure": True})
    assert left(home) == []


@pytest.mark.parametrize(
    ("image", "options", "error", "said"),
    [
        ("127.0.0.1:1/x/y:latest", {"registry_insecure": True}, StartFailed, "can't be pulled"),
        ("127.0.0.1:1/x/y:latest", {"pull_policy": "never"}, UnsupportedOption, "not cached"),
        ("UPPER::x", {}, UnsupportedOption, "invalid"),
        ("/no/such.tar", {}, UnsupportedOption, "no archive"),
        (__file__, {}, UnsupportedOption, "can't be loaded"),
    ],
)
def test_images_that_cannot_be_had(
    backend: MicrosandboxBackend, home: Path, image: str, options: Any, error: type[Exception], said: str
) -> None:
    """Guards the messages, and that nothing stays."""
    fail(backend, error, said, image=image, options=options)
    assert list(backend.list({})) == []
    assert left(home) == []


def test_a_home_is_closed_to_others(backend: MicrosandboxBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards what steps write, and secrets while they run, from other users of the machine."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        place = Path(name, "msb")
        place.mkdir(mode=0o755)
        monkeypatch.setenv(HOME, str(place))
        backend.check()
        assert place.stat().st_mode & 0o777 == 0o700


def test_a_home_too_long_for_sockets_is_refused(
    backend: MicrosandboxBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a boot that fails over the length of a path."""
    monkeypatch.setenv(HOME, "/tmp/" + "x" * LONGEST_HOME)
    for attempt in (backend.check, lambda: backend.open(SandboxSpec())):
        with pytest.raises(BackendUnavailable, match=f"set {HOME} to a shorter path"):
            attempt()
    assert not Path("/tmp/" + "x" * LONGEST_HOME).exists()


def test_a_full_disk_is_refused_before_the_boot(
    backend: MicrosandboxBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a guest that dies in the middle for lack of space."""
    monkeypatch.setattr(backends.places, "SPACE", shutil.disk_usage("/").total)
    with pytest.raises(BackendUnavailable, match="MiB are free"):
        backend.check()


def test_another_tool_of_the_choice_is_not_guessed(
    backend: MicrosandboxBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a machine here for whoever told the msb command to use a cloud."""
    monkeypatch.setenv("MSB_BACKEND", "cloud")
    with pytest.raises(BackendUnavailable, match="MSB_BACKEND"):
        backend.check()
