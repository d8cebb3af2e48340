"""The line on metaflow-local-service: for its own runs alone, and once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from metaflow_extensions.sandbox.plugins.local_service import LINE, STATE, say_what_it_lacks

URL = "http://127.0.0.1:4321"


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state of a running metaflow-local-service, in a home of its own."""
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / STATE
    file.parent.mkdir()
    file.write_text(json.dumps({"pid": 1, "port": 4321, "metaflow_root": "/", "started_at": 1.0}))
    return file


def test_first_run_is_told_alone(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Guards against a line that comes with every run, or never again once the service is another."""
    for _ in range(3):
        say_what_it_lacks(URL)
    assert capsys.readouterr().err == LINE
    state.write_text(json.dumps({"pid": 2, "port": 4321, "metaflow_root": "/", "started_at": 2.0}))
    say_what_it_lacks(URL)
    assert capsys.readouterr().err == LINE


@pytest.mark.parametrize("url", ["http://127.0.0.1:4322", "https://metadata.example", None])
def test_other_services_are_left_alone(
    state: Path, capsys: pytest.CaptureFixture[str], url: str | None
) -> None:
    """Guards the users of any other service."""
    say_what_it_lacks(url)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("content", ["", "{", "[]", "{}"])
def test_state_that_makes_no_sense(state: Path, capsys: pytest.CaptureFixture[str], content: str) -> None:
    """Guards a run from a file that is not ours."""
    state.write_text(content)
    say_what_it_lacks(URL)
    assert capsys.readouterr().err == ""


def test_home_that_cannot_be_written(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Guards a run whose user's home takes no files."""
    (state.parent.parent / ".metaflow-sandbox").write_text("in the way")
    say_what_it_lacks(URL)
    assert capsys.readouterr().err == LINE
