"""Snapshots of Daytona with a step's packages, over its stand-in: made once, found again, done without."""

from __future__ import annotations

import contextlib
import os
import tarfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from metaflow_extensions.sandbox.backends.interface import Command, Layer, SandboxSpec
from metaflow_extensions.sandbox.errors import QuotaExceeded, SandboxError, StartFailed

from .daytona import DaytonaServer, daytona_server
from .waiting import until

pytest.importorskip("daytona", reason="the SDK is missing: pip install daytona")

from metaflow_extensions.sandbox.backends.daytona import backend as backend_module
from metaflow_extensions.sandbox.backends.daytona.backend import DaytonaBackend
from metaflow_extensions.sandbox.backends.daytona.snapshots import Snapshots


@pytest.fixture(scope="module")
def server() -> Iterator[DaytonaServer]:
    """For all tests."""
    with daytona_server() as running:
        yield running


@pytest.fixture
def backend(server: DaytonaServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[DaytonaBackend]:
    """The backend of a process that knows of no snapshot, with no sandbox left at the end."""
    for name, value in server.settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(backend_module, "_snapshots", Snapshots())
    yield DaytonaBackend()
    until(lambda: server.sandboxes() == [])


@pytest.fixture
def layer(tmp_path: Path) -> Layer:
    """One file, under a key of its own."""
    key = os.urandom(8).hex()
    with tarfile.open(tmp_path / f"{key}.tar.gz", "w:gz") as archive:
        (tmp_path / "x").write_text("there")
        archive.add(tmp_path / "x", "env/x")
    return Layer(key, tmp_path / f"{key}.tar.gz", PurePosixPath("/opt/packages") / key)


def content(backend: DaytonaBackend, **spec: Any) -> bytes:
    """What a command prints of the layer's file in a sandbox, and of what else is beside our programs."""
    sandbox = backend.open(SandboxSpec(**spec))
    try:
        code = f"import os; print(open('{spec['layer'].place}/env/x').read(), len(os.listdir('/var/tmp')))"
        process = sandbox.start(Command(["python3", "-c", code]))
        said = b"".join(chunk.data for chunk in process.output())
        assert process.wait() == 0, said
        return said
    finally:
        sandbox.close()


def made(server: DaytonaServer, before: int) -> list[str | None]:
    """What the sandboxes since then were made from: a snapshot's name, or None for an image."""
    return [asked.get("snapshot") for asked in server.created()[before:]]


def test_packages_become_a_snapshot_once(
    backend: DaytonaBackend, server: DaytonaServer, layer: Layer
) -> None:
    """Guards a foreach against an environment that is sent for each of its tasks, and what a user is told."""
    told: list[str] = []
    before = len(server.created())
    with ThreadPoolExecutor(6) as pool:
        results = pool.map(lambda _: content(backend, layer=layer, tell=told.append), range(6))
        assert set(results) == {b"there 1\n"}
    first, *others = made(server, before)
    assert first is None
    assert len(others) == 6
    assert len(set(others)) == 1
    assert server.created()[before]["user"] == "root"
    assert [line.split()[1] for line in told if "packages" in line or "has made" in line] == ["makes", "has"]


def test_another_process_finds_it(
    backend: DaytonaBackend, server: DaytonaServer, layer: Layer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards a second run, two weeks later too, and after somebody has tidied up in the middle of one."""
    content(backend, layer=layer)
    monkeypatch.setattr(backend_module, "_snapshots", Snapshots())
    before = len(server.created())
    content(backend, layer=layer)
    assert len(server.created()) == before + 1
    monkeypatch.setattr(backend_module, "_snapshots", Snapshots())
    server.ask("POST", "/snapshots", {"state": "inactive"})
    content(backend, layer=layer)
    assert len(server.created()) == before + 2
    server.ask("POST", "/snapshots", {"state": None})
    assert content(backend, layer=layer) == b"there 1\n"
    assert made(server, before + 2)[0] is None
    monkeypatch.setattr(backend_module, "_snapshots", Snapshots())
    server.ask("POST", "/snapshots", {"state": "error"})
    assert content(backend, layer=layer) == b"there 1\n"


def test_sizes_are_the_snapshots(backend: DaytonaBackend, server: DaytonaServer, layer: Layer) -> None:
    """Guards limits, which Daytona takes with an image only: each size has a snapshot of its own."""
    for memory in (1024, 2048):
        sizes = {"memory": memory, "cpu": 2, "disk": 1024}
        assert content(backend, layer=layer, **sizes) == b"there 1\n"
        sandbox = backend.open(SandboxSpec(layer=layer, **sizes))  # type: ignore[arg-type]
        (about,) = [each for each in server.sandboxes() if each["name"] == sandbox.id]
        assert (about["memory"], about["cpu"], about["disk"]) == (memory // 1024, 2, 1)
        sandbox.close()


@pytest.mark.parametrize(
    ("faults", "sandboxes"),
    [({"snapshot": "quota exceeded"}, 3), ({"late_snapshot": 60.0}, 3), ({"no_snapshots": True}, 2)],
    ids=["quota", "late", "a key without permission"],
)
def test_packages_without_a_snapshot(
    backend: DaytonaBackend,
    server: DaytonaServer,
    layer: Layer,
    monkeypatch: pytest.MonkeyPatch,
    faults: dict[str, Any],
    sandboxes: int,
) -> None:
    """Guards packages against what Daytona does not keep: each sandbox gets them, and it is told once."""
    monkeypatch.setattr("metaflow_extensions.sandbox.backends.daytona.snapshots.APPEARS", 2.0)
    told: list[str] = []
    before = len(server.created())
    with server.failing(**faults):
        for _ in range(2):
            assert content(backend, layer=layer, tell=told.append) == b"there 1\n"
    assert made(server, before) == [None] * sandboxes
    assert sum("are sent to each" in line for line in told) == 1


def test_two_runs_at_once(backend: DaytonaBackend, server: DaytonaServer, layer: Layer) -> None:
    """Guards the second of two runs, whose snapshot has the name of the first's: it waits for that one."""
    told: list[str] = []
    before = len(server.created())

    def opened(_run: int) -> None:
        Snapshots().open(SandboxSpec(layer=layer, tell=told.append), backend_module.made).close()

    with server.failing(late_snapshot=3.0), ThreadPoolExecutor(2) as pool:
        list(pool.map(opened, range(2)))
    assert [name is None for name in made(server, before)] == [True, True, False, False]
    assert not any("are sent to each" in line for line in told)


def test_a_snapshot_that_shows_up_late(backend: DaytonaBackend, server: DaytonaServer, layer: Layer) -> None:
    """Guards against a list that lags, which is no failure."""
    before = len(server.created())
    with server.failing(late_snapshot=3.0):
        assert content(backend, layer=layer) == b"there 1\n"
    assert made(server, before)[1] is not None


def test_packages_in_a_snapshot_of_the_users_own(
    backend: DaytonaBackend, server: DaytonaServer, layer: Layer
) -> None:
    """Guards snapshot= with packages: nothing is made from it, and they are there all the same."""
    before = len(server.created())
    assert content(backend, layer=layer, options={"snapshot": "mine"}) == b"there 1\n"
    assert made(server, before) == ["mine"]


def test_packages_that_can_not_be_unpacked(
    backend: DaytonaBackend, server: DaytonaServer, tmp_path: Path
) -> None:
    """Guards against a snapshot of a sandbox that lacks half of them."""
    (tmp_path / "broken.tar.gz").write_bytes(b"no archive")
    broken = Layer("broken", tmp_path / "broken.tar.gz", PurePosixPath("/opt/packages/broken"))
    with pytest.raises(StartFailed, match=r"packages can't be unpacked in /opt/packages/broken"):
        backend.open(SandboxSpec(layer=broken))
    with server.failing(quota="Sandbox quota exceeded"), pytest.raises(QuotaExceeded):
        backend.open(SandboxSpec(layer=broken))


def test_a_sandbox_that_goes_while_it_is_kept(
    backend: DaytonaBackend, server: DaytonaServer, layer: Layer
) -> None:
    """Guards against a wait for a snapshot that nobody makes any more."""

    def vanish() -> None:
        until(lambda: len(server.created()) > before and server.sandboxes())
        server.ask("POST", f"/vanish/{server.sandboxes()[0]['name']}")

    before = len(server.created())
    vanishing = threading.Thread(target=vanish)
    vanishing.start()
    with contextlib.suppress(SandboxError):
        content(backend, layer=layer)
    vanishing.join()
    assert content(backend, layer=layer) == b"there 1\n"
