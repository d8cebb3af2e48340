"""A lock's name is its content's, wherever it came from."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from metaflow_extensions.sandbox.packages.lock import Lock, Wheel, write_whole

ONE = Wheel("a", "1", "a-1-py3-none-any.whl", "https://one.example/a.whl", "1" * 64)
TWO = Wheel("b", "2", "b-2-py3-none-any.whl", "https://one.example/b.whl", "2" * 64)
LOCK = Lock("3.11", "linux-64", (ONE, TWO))


def test_key_is_of_what_is_installed() -> None:
    """Guards sharing: another mirror or order is the same environment, all else is another."""
    same = replace(LOCK, wheels=(TWO, replace(ONE, url="https://mirror.example/a.whl")))
    assert same.key("python") == LOCK.key("python")
    others = [
        LOCK.key("another python"),
        replace(LOCK, python="3.12").key("python"),
        replace(LOCK, platform="linux-aarch64").key("python"),
        replace(LOCK, wheels=(ONE,)).key("python"),
        replace(LOCK, wheels=(ONE, replace(TWO, sha256="3" * 64))).key("python"),
    ]
    assert len({LOCK.key("python"), *others}) == 6


def test_lock_is_kept_whole() -> None:
    """Guards its way through the cache and the supervisor's pipe."""
    assert Lock.from_json(json.loads(json.dumps(LOCK.as_json()))) == LOCK


def test_recorded_says_what_to_install_again() -> None:
    """Guards the task's metadata: versions and hashes, without the URLs."""
    recorded = json.loads(LOCK.recorded())
    assert recorded["packages"]["a"] == ["1", f"sha256:{'1' * 64}"]
    assert "example" not in LOCK.recorded()


def test_files_are_written_whole(tmp_path: Path) -> None:
    """Guards readers against half a file, and the directory against what a failure leaves."""
    write_whole(tmp_path / "a", "text")
    (tmp_path / "b").mkdir()
    with pytest.raises(OSError):
        write_whole(tmp_path / "b", "text")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
