"""How pybox is found and worded, and what its complaints mean."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from metaflow_extensions.sandbox.backends.pybox.program import (
    CHOICE,
    COMMIT,
    complaint,
    environment,
    executable,
    words,
)
from metaflow_extensions.sandbox.errors import (
    BackendUnavailable,
    SandboxError,
    StartFailed,
    UnsupportedOption,
)


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program of that name, the only one in PATH."""
    path = tmp_path / "pybox"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv(CHOICE, raising=False)
    return path


def test_program_in_path_is_found(program: Path) -> None:
    """Guards the usual installation."""
    assert executable() == str(program)


def test_chosen_program_comes_first(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against another environment's pybox being run than the one that was named."""
    other = program.with_name("other")
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    monkeypatch.setenv(CHOICE, str(other))
    assert executable() == str(other)


def test_missing_program_names_the_command_that_installs_it(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards the remedy: no extra installs pybox, and only one commit of it was tried."""
    program.unlink()
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    with pytest.raises(BackendUnavailable, match=f"pip install 'pybox @ git.*{COMMIT}'"):
        executable()


def test_chosen_program_that_is_none_is_named(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against falling back to another program than the one that was asked for."""
    monkeypatch.setenv(CHOICE, "/no/such/pybox")
    with pytest.raises(BackendUnavailable, match="/no/such/pybox"):
        executable()


def test_arguments_come_last_and_whole(program: Path) -> None:
    """Guards against an image or a program that is taken for an option, or goes through a shell."""
    assert words("run", "--image=a b", "$HOME")[-4:] == [str(program), "run", "--image=a b", "$HOME"]


def test_environment_holds_nothing_of_the_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards credentials, and pybox against variables that it takes for settings."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("PYBOX_UNKNOWN", "1")
    found = environment(Path("/root/of/pybox"))
    assert set(found) - {"HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"} == {
        "PATH",
        "PYBOX_ROOT",
        "PYBOX_CGROUP_ROOT",
        "LANG",
        "COLUMNS",
    }
    assert found["PYBOX_ROOT"] == "/root/of/pybox"
    assert found["PYBOX_CGROUP_ROOT"] == os.devnull


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("Error: Failed to pull image 'x': Image not found: x\n", UnsupportedOption),
        ("Error: Failed to pull image 'x': Auth failed for library/x\n", StartFailed),
        ("noise\n[pybox init] FATAL: no python3\nmore noise\n", StartFailed),
        ("", StartFailed),
    ],
)
def test_complaint_is_told_apart(tmp_path: Path, said: str, kind: type[SandboxError]) -> None:
    """Guards retries: a missing image stays missing, a registry may come back."""
    log = tmp_path / "log"
    log.write_text(said)
    error = complaint("x", log, 1)
    assert type(error) is kind
    assert "'x'" in str(error)
    assert "noise" not in str(error)
