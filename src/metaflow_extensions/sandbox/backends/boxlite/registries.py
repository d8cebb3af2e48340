"""The user's logins to registries, as Docker and Podman keep them, and registries that have no TLS."""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from boxlite import ImageRegistry

SETTING = "METAFLOW_SANDBOX_BOXLITE_INSECURE_REGISTRIES"
DOCKER_HUB = ("https://index.docker.io/v1/", "index.docker.io", "docker.io")


def known(environ: Mapping[str, str] = os.environ) -> list[ImageRegistry]:
    """Every registry with a login or without TLS; credential helpers are not asked."""
    logins: dict[str, tuple[str, str]] = {}
    for path in _files(environ):
        for host, login in _logins(path).items():
            logins.setdefault(host, login)
    plain = {host.strip() for host in environ.get(SETTING, "").split(",") if host.strip()}
    found = []
    for host in sorted({*logins, *plain}):
        options: dict[str, Any] = {"transport": "http"} if host in plain else {}
        if host in logins:
            options["username"], options["password"] = logins[host]
        found.append(ImageRegistry(host, **options))
    return found


def _files(environ: Mapping[str, str]) -> Iterator[Path]:
    home = Path(environ.get("HOME") or Path.home())
    yield Path(environ.get("DOCKER_CONFIG") or home / ".docker") / "config.json"
    if environ.get("REGISTRY_AUTH_FILE"):
        yield Path(environ["REGISTRY_AUTH_FILE"])
    if environ.get("XDG_RUNTIME_DIR"):
        yield Path(environ["XDG_RUNTIME_DIR"], "containers/auth.json")
    yield home / ".config/containers/auth.json"


def _logins(path: Path) -> dict[str, tuple[str, str]]:
    try:
        kept = json.loads(path.read_text()).get("auths", {})
    except (FileNotFoundError, PermissionError, json.JSONDecodeError):
        return {}
    found = {}
    for host, entry in kept.items():
        try:
            user, colon, password = base64.b64decode(entry.get("auth") or "").decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            continue
        if colon:
            found["docker.io" if host in DOCKER_HUB else host] = (user, password)
    return found
