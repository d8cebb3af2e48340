"""Logins to registries."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

boxlite = pytest.importorskip("boxlite", reason="the SDK is missing: pip install boxlite")

from metaflow_extensions.sandbox.backends.boxlite.registries import SETTING, known  # noqa: E402


def keep(path: Path, **logins: str) -> None:
    """A file of logins as Docker writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    encoded = {host: {"auth": base64.b64encode(login.encode()).decode()} for host, login in logins.items()}
    path.write_text(json.dumps({"auths": encoded}))


def described(home: Path, **environment: str) -> list[tuple[object, ...]]:
    """What is known with that home directory."""
    found = known({"HOME": str(home), **environment})
    return [(each.host, each.transport, each.username, each.password) for each in found]


def test_no_files_know_nothing(tmp_path: Path) -> None:
    """Most users have neither."""
    assert described(tmp_path) == []


def test_logins_of_docker_and_podman(tmp_path: Path) -> None:
    """Docker's comes first; a password may hold colons, and Docker Hub has a name of its own."""
    keep(tmp_path / ".docker/config.json", **{"https://index.docker.io/v1/": "me:a:b", "one.example": "x:1"})
    keep(tmp_path / ".config/containers/auth.json", **{"one.example": "y:2", "two.example": "z:3"})
    assert [(host, user, password) for host, _, user, password in described(tmp_path)] == [
        ("docker.io", "me", "a:b"),
        ("one.example", "x", "1"),
        ("two.example", "z", "3"),
    ]


def test_broken_files_are_no_logins(tmp_path: Path) -> None:
    """A credential helper leaves entries without a login; a file may be half written."""
    (tmp_path / ".docker").mkdir()
    (tmp_path / ".docker/config.json").write_text('{"auths": {"one.example": {}}, "credsStore": "desktop"}')
    (tmp_path / "broken").write_text("{")
    assert described(tmp_path, REGISTRY_AUTH_FILE=str(tmp_path / "broken")) == []


def test_registries_without_tls(tmp_path: Path) -> None:
    """Only those that are named are spoken to in the clear."""
    keep(tmp_path / ".docker/config.json", **{"127.0.0.1:5000": "x:1", "one.example": "y:2"})
    found = described(tmp_path, **{SETTING: "127.0.0.1:5000, 127.0.0.1:5001"})
    assert {host: transport for host, transport, *_ in found} == {
        "127.0.0.1:5000": "http",
        "127.0.0.1:5001": "http",
        "one.example": "https",
    }
