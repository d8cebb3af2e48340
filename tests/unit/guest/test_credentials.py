"""The datastore's credentials inside a sandbox."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from metaflow_extensions.sandbox.guest import credentials
from metaflow_extensions.sandbox.guest.client import RelayRefused

OWN = {"AccessKeyId": "key", "SecretAccessKey": "hunter2"}


def stamp(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(credentials.FILE_VARIABLE, str(tmp_path / "s3.json"))
    monkeypatch.delenv("METAFLOW_SANDBOX_RELAY", raising=False)
    return tmp_path / "s3.json"


@pytest.mark.parametrize("ends", [False, True])
def test_fresh_ones_are_the_files(file: Path, ends: bool) -> None:
    """Guards against a question to the launcher for each of a step's processes."""
    given = {**OWN, **({"Expiration": stamp(3600), "SessionToken": "t"} if ends else {})}
    file.write_text(json.dumps(given))
    assert credentials.credentials() == given


@pytest.mark.parametrize("seconds", [-10, 60, credentials.FRESH - 5])
def test_old_ones_are_asked_for_again(file: Path, seconds: float) -> None:
    """Guards against a long step that cannot save its results with what it was given hours ago."""
    file.write_text(json.dumps({**OWN, "SessionToken": "t", "Expiration": stamp(seconds)}))
    with pytest.raises(RelayRefused, match="METAFLOW_SANDBOX_RELAY"):
        credentials.credentials()


def test_as_a_program(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Guards the form that credential_process has to have."""
    file.write_text(json.dumps(OWN))
    credentials.main()
    assert json.loads(capsys.readouterr().out) == {"Version": 1, **OWN}
