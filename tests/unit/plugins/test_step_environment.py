"""The whole environment of a sandboxed step."""

from __future__ import annotations

from typing import Any

import pytest

from metaflow_extensions.sandbox.plugins.step_environment import (
    CARD_ROOTS,
    HANDED_ON,
    card_root,
    step_environment,
)


def make(**changes: Any) -> dict[str, str]:
    settings: dict[str, Any] = {
        "run_id": "7",
        "datastore_type": "local",
        "cards": "/data/mf.cards",
        "metadata_type": "service",
        "metadata_info": "http://service",
        "python_path": ["/a", "/b"],
        "user_variables": {},
    }
    return step_environment(**{**settings, **changes})


def test_nothing_of_the_launchers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against keys, paths and settings that come along."""
    before = make()
    for name in (
        "AWS_SECRET_ACCESS_KEY", "HOME", "PATH", "SSH_AUTH_SOCK", "METAFLOW_SERVICE_AUTH_KEY",
        "METAFLOW_SERVICE_HEADERS", "METAFLOW_DATASTORE_SYSROOT_LOCAL", "METAFLOW_SANDBOX_BACKEND",
        "LD_PRELOAD",
        "PYTHONPATH", "PYTHONSTARTUP",
    ):  # fmt: skip
        monkeypatch.setenv(name, "hunter2")
    assert make() == before
    assert "hunter2" not in str(make())


def test_what_metaflow_hands_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a task that does not know its code package."""
    for name in HANDED_ON:
        monkeypatch.delenv(name, raising=False)
        assert name not in make()
        monkeypatch.setenv(name, "x")
        assert make()[name] == "x"


def test_what_the_guest_needs() -> None:
    """Guards against a guest that takes itself for the launcher."""
    environment = make()
    assert environment["METAFLOW_SANDBOX_GUEST"] == "1"
    assert environment["METAFLOW_RUNTIME_ENVIRONMENT"] != "local"
    assert environment["METAFLOW_RUN_ID"] == "7"
    assert environment["METAFLOW_DEFAULT_METADATA"] == "service"
    assert environment["METAFLOW_SANDBOX_METADATA_INFO"] == "http://service"
    assert environment["PYTHONPATH"] == "/a:/b"
    assert environment[CARD_ROOTS["local"]] == "/data/mf.cards"
    assert "METAFLOW_DATASTORE_SYSROOT_LOCAL" not in environment
    assert all(isinstance(value, str) for value in environment.values())


def test_no_path() -> None:
    """Guards against an empty PYTHONPATH, which means the working directory."""
    assert "PYTHONPATH" not in make(python_path=[])


def test_the_users_variables() -> None:
    """Guards against variables of the user's that get lost, and against those that open the guest."""
    wanted = {"PYTHONUNBUFFERED": "", "USER": "me", "A": "1", "PYTHONPATH": "/mine"}
    environment = make(user_variables={**wanted, "METAFLOW_SANDBOX_GUEST": "", "METAFLOW_RUN_ID": "8"})
    assert {name: environment[name] for name in wanted} == wanted
    assert environment["METAFLOW_SANDBOX_GUEST"] == "1"
    assert environment["METAFLOW_RUN_ID"] == "7"


@pytest.mark.parametrize("kind", ["local", "spin", "s3", "azure", "gs"])
def test_cards_of_every_datastore(kind: str) -> None:
    """Guards against a datastore without a place for cards."""
    assert card_root(kind, "root").startswith(("root", "/", "s3:", "gs:", "mf.cards"))
    assert make(datastore_type=kind)[CARD_ROOTS[kind]] == "/data/mf.cards"
