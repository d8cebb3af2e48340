"""uv is found where it is, and what it says is what the user reads."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from metaflow_extensions.sandbox.errors import PackagesFailed
from metaflow_extensions.sandbox.packages.uv import ask, find_uv


def test_the_one_on_path_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the user's own uv, with its version and settings; else the package's is taken."""
    own = tmp_path / "uv"
    own.write_text("#!/bin/sh\necho mine\n")
    own.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_uv() == str(own)
    own.unlink()
    assert Path(find_uv()).name == "uv"


def test_without_any_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards an installation without the extra."""
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setitem(sys.modules, "uv", None)
    with pytest.raises(PackagesFailed, match=r"metaflow-sandbox\[packages\]"):
        find_uv()


def test_what_it_says_is_passed_on() -> None:
    """Guards errors of uv against becoming an exit code."""
    with pytest.raises(PackagesFailed, match="nonsense"):
        ask("nonsense")
    assert ask("--version").startswith("uv ")
