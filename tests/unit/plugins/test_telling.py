"""The settings of what a run tells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from metaflow import metaflow_config

from metaflow_extensions.sandbox.errors import UnsupportedOption
from metaflow_extensions.sandbox.plugins.telling import telling


def setting(monkeypatch: pytest.MonkeyPatch, **values: Any) -> None:
    """Set METAFLOW_SANDBOX_…."""
    for name, value in values.items():
        monkeypatch.setattr(metaflow_config, f"SANDBOX_{name}", value)


def test_nothing_is_told_unasked() -> None:
    """Guards against files that nobody has asked for."""
    told = telling()
    assert (told.quiet, told.events, told.debug, told.keep_for, told.trace) == (False, "", "", 900.0, {})


def test_paths_are_the_launchers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against files in the supervisor's working directory in the place of the user's."""
    monkeypatch.chdir(tmp_path)
    setting(monkeypatch, EVENTS="events.jsonl", DEBUG="1", LOG="quiet", KEEP_SECONDS="60")
    told = telling()
    assert told.events == str(tmp_path / "events.jsonl")
    assert told.debug == str(tmp_path / ".metaflow" / "sandbox-debug")
    assert (told.quiet, told.keep_for) == (True, 60.0)
    setting(monkeypatch, DEBUG="here")
    assert telling().debug == str(tmp_path / "here")
    assert Path(telling().debug).is_dir()
    setting(monkeypatch, DEBUG="0")
    assert telling().debug == ""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LOG", "loud"),
        ("EVENTS", "/nonexistent/events"),
        ("DEBUG", "/dev/null/x"),
        ("KEEP_SECONDS", "soon"),
    ],
)
def test_what_cannot_be_is_refused(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a run whose events or debug files turn out to be missing when it is over."""
    setting(monkeypatch, **{name: value})
    with pytest.raises(UnsupportedOption, match=f"METAFLOW_SANDBOX_{name}"):
        telling()
