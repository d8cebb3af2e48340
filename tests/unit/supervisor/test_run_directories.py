"""The directories of runs, those of the living and of the dead."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from metaflow_extensions.sandbox.supervisor import run_directories

AN_HOUR = 3600.0


@pytest.fixture(autouse=True)
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory for temporary files, at a short path."""
    with tempfile.TemporaryDirectory(prefix="s", dir="/tmp") as directory:
        monkeypatch.setattr(tempfile, "tempdir", directory)
        yield Path(directory)


def age(directory: Path) -> None:
    """Let it be from an hour ago."""
    os.utime(directory, (time.time() - AN_HOUR,) * 2)


def test_a_run_lives_as_long_as_one_of_its_owners() -> None:
    """Guards against a cleanup that takes the directory from a supervisor or reaper that still works."""
    directory = run_directories.make()
    with subprocess.Popen(["true"]) as dead:
        run_directories.note_owners(directory, dead.pid, os.getpid())
    assert run_directories.lives(directory)
    with subprocess.Popen(["true"]) as dead:
        run_directories.note_owners(directory, dead.pid)
    assert not run_directories.lives(directory)


def test_a_young_directory_lives() -> None:
    """Guards the moment in which a directory is there and its owners are not noted."""
    directory = run_directories.make()
    assert run_directories.lives(directory)
    age(directory)
    assert not run_directories.lives(directory)


def test_a_directory_that_is_listened_in_lives() -> None:
    """Guards runs of a version that notes no owners."""
    directory = run_directories.make()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(directory / run_directories.CONTROL))
        age(directory)
        assert not run_directories.lives(directory)
        listener.listen()
        assert run_directories.lives(directory)


def test_only_own_directories_are_found(place: Path) -> None:
    """Guards against links and files that are taken for directories, and removed through."""
    directory = run_directories.make()
    (place / "victim").mkdir()
    (place / f"{run_directories.PREFIX}link").symlink_to(place / "victim")
    (place / f"{run_directories.PREFIX}file").write_text("")
    assert list(run_directories.of_this_user()) == [directory]
    assert run_directories.find(directory.name) == directory
    run_directories.remove(directory)
    assert run_directories.find(directory.name) is None
    run_directories.remove(directory)
    assert (place / "victim").is_dir()
