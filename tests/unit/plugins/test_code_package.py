"""The flow's code on its way into the directory that sandboxes mount."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from metaflow_extensions.sandbox.plugins.code_package import CodeTooLarge, copy_code, user_files


class Package:
    """What Metaflow's package has of it: a thread that lists the files, and the list."""

    def __init__(self, root: Path, listing: threading.Event | None = None) -> None:
        self._root = root
        self._cached_user_members: list[tuple[str, str]] | None = None
        self._listing = listing or threading.Event()
        self._create_thread = threading.Thread(target=self._list, daemon=True)
        if listing is None:
            self._listing.set()
        self._create_thread.start()

    def _list(self) -> None:
        self._listing.wait()
        self._cached_user_members = list(self.user_tuples())

    def user_tuples(self) -> Iterator[tuple[str, str]]:
        for path in sorted(self._root.rglob("*")):
            if path.is_file():
                yield str(path), str(path.relative_to(self._root))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    (root / "package" / "deep").mkdir(parents=True)
    (root / "flow.py").write_text("print('flow')\n")
    (root / "package" / "deep" / "data.bin").write_bytes(bytes(range(256)) * 1000)
    (root / "run.sh").write_text("#!/bin/sh\n")
    (root / "run.sh").chmod(0o700)
    (root / "secret.txt").write_text("x")
    (root / "secret.txt").chmod(0o600)
    (root / "link.py").symlink_to("flow.py")
    return root


def modes(root: Path) -> dict[str, int]:
    return {str(path.relative_to(root)): path.stat().st_mode & 0o777 for path in [root, *root.rglob("*")]}


def test_a_copy(source: Path, tmp_path: Path) -> None:
    """Guards against files that are missing, or unreadable for the user that the step runs as."""
    target = tmp_path / "code"
    before = os.umask(0o077)
    try:
        copy_code(Package(source), target, 1 << 20)
    finally:
        os.umask(before)
    assert modes(target) == {
        ".": 0o755,
        "package": 0o755,
        "package/deep": 0o755,
        "flow.py": 0o644,
        "link.py": 0o644,
        "secret.txt": 0o644,
        "run.sh": 0o755,
        "package/deep/data.bin": 0o644,
    }
    for name in ("flow.py", "package/deep/data.bin"):
        assert (target / name).read_bytes() == (source / name).read_bytes()
    assert not (target / "link.py").is_symlink()


def test_the_source_stays_as_it_is(source: Path, tmp_path: Path) -> None:
    """Guards against a copy that shares files with the flow's directory, or changes their modes."""
    before = modes(source)
    copy_code(Package(source), tmp_path / "code", 1 << 20)
    assert modes(source) == before
    assert (source / "flow.py").stat().st_ino != (tmp_path / "code" / "flow.py").stat().st_ino


def test_code_that_is_too_large(source: Path, tmp_path: Path) -> None:
    """Guards against a data file beside the flow that fills the disk, and a message that does not help."""
    (source / "big.bin").write_bytes(bytes(2 << 20))
    with pytest.raises(CodeTooLarge) as raised:
        copy_code(Package(source), tmp_path / "code", 1 << 20)
    message = str(raised.value)
    assert "over 1 MiB" in message
    assert "big.bin" in message
    assert "METAFLOW_SANDBOX_MAX_CODE" in message
    assert "--package-suffixes" in message
    assert not (tmp_path / "code" / "big.bin").exists()


def test_metaflow_has_not_listed_the_files_yet(source: Path) -> None:
    """Guards against an empty or half a list while Metaflow's thread is at work."""
    listing = threading.Event()
    package = Package(source, listing)
    found: list[list[tuple[str, str]]] = []
    waiting = threading.Thread(target=lambda: found.append(user_files(package)))
    waiting.start()
    assert found == []
    listing.set()
    waiting.join()
    assert found == [list(package.user_tuples())]


def test_metaflow_keeps_no_list(source: Path) -> None:
    """Guards against a version of Metaflow, or a failed thread, without the list."""
    package = Package(source)
    package._create_thread.join()
    del package._cached_user_members
    assert user_files(package) == list(package.user_tuples())


def test_what_is_no_file(source: Path, tmp_path: Path) -> None:
    """Guards against a pipe that is waited for, and against links and files that lead nowhere."""
    package = Package(source)
    package._create_thread.join()
    os.mkfifo(source / "pipe.py")
    (source / "nowhere.py").symlink_to("none.py")
    (source / "secret.txt").unlink()
    assert package._cached_user_members is not None
    package._cached_user_members += [(str(source / name), name) for name in ("pipe.py", "nowhere.py")]
    copy_code(package, tmp_path / "code", 1 << 20)
    assert {path.name for path in (tmp_path / "code").iterdir()} == {
        "flow.py",
        "link.py",
        "run.sh",
        "package",
    }
