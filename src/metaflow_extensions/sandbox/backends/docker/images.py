"""An image that is there, or is pulled with the user's own credentials."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import docker
import requests
from docker import auth
from docker.errors import APIError, NotFound
from docker.utils import parse_repository_tag

from ...errors import StartFailed, UnsupportedOption
from ..image_refusal import Complaints
from .engine import Engine

POLICIES = ("missing", "always", "never")
TELL_EVERY = 5.0  # seconds between two lines of progress
ASK_AGAIN = (0.1, 0.2, 0.4, 0.8, 1.6)  # seconds before each further question, while the engine fails
COMPLAINTS = Complaints(
    denied=("unauthorized", "denied", "authentication required", "forbidden", "401", "403"),
    absent=(
        "not found",
        "manifest unknown",
        "name unknown",
        "no such image",
        "404",
        "repository does not exist",
    ),
    malformed=("invalid reference format", "must be lowercase"),
)


def ensure(engine: Engine, image: str, policy: str, tell: Callable[[str], None] | None) -> Mapping[str, Any]:
    """The image's description by the engine, pulled first where the policy says so.

    Raises UnsupportedOption when it does not exist or is denied, StartFailed when its registry fails.
    """
    found = None if policy == "always" else _inspect(engine.client, image)
    if found is None and policy == "never":
        raise UnsupportedOption(
            f"the image {image!r} is not in the engine at {engine.url}, and pull_policy='never': pull it "
            "first, or leave out pull_policy"
        )
    if found is None:
        _pull(engine, image, tell or (lambda _line: None))
        found = _inspect(engine.client, image)
    if found is None:
        raise StartFailed(f"the image {image!r} was pulled and is not there: look at the engine's log")
    return found


def _inspect(
    client: docker.APIClient, image: str, pauses: Sequence[float] = ASK_AGAIN
) -> Mapping[str, Any] | None:
    try:
        answer: Mapping[str, Any] = client.inspect_image(image)  # type: ignore[no-untyped-call]
    except NotFound:
        return None
    except APIError as error:
        if not pauses or not error.is_server_error():
            raise COMPLAINTS.refusal(image, str(error.explanation or error)) from error
        # Podman 4.3 fails for a moment where another process writes to its storage, as a pull does.
        time.sleep(pauses[0])
        return _inspect(client, image, pauses[1:])
    except requests.exceptions.RequestException as error:
        raise StartFailed(f"the engine does not say whether it has the image {image!r}: {error}") from error
    return answer


def _pull(engine: Engine, image: str, tell: Callable[[str], None]) -> None:
    repository, tag = parse_repository_tag(image)
    tell(f"pulling the image {image}")
    begin = told = time.monotonic()
    try:
        for line in engine.client.pull(
            repository, tag or "latest", stream=True, decode=True, auth_config=_credentials(repository)
        ):
            if line.get("error"):
                raise COMPLAINTS.refusal(image, str(line["error"]))
            if time.monotonic() - told > TELL_EVERY:
                told = time.monotonic()
                tell(f"pulling the image {image}: {_progress(line)}")
    except APIError as error:
        raise COMPLAINTS.refusal(image, str(error.explanation or error)) from error
    except requests.exceptions.RequestException as error:
        raise StartFailed(f"the engine broke off pulling the image {image!r}: {error}") from error
    tell(f"pulled the image {image} in {time.monotonic() - begin:.0f} s")


def _progress(line: Mapping[str, Any]) -> str:
    return " ".join(str(line[name]) for name in ("id", "status", "progress") if line.get(name)) or "working"


def _credentials(repository: str) -> dict[str, str] | None:
    """Podman's own login for a registry; Docker's is found by the SDK, as None says."""
    registry = auth.resolve_repository_name(repository)[0]
    if auth.load_config().resolve_authconfig(registry):
        return None
    for path in _auth_files():
        try:
            kept = json.loads(path.read_text()).get("auths", {}).get(registry, {}).get("auth")
        except FileNotFoundError:
            continue
        if kept:
            user, password = auth.decode_auth(kept)
            return {"username": user, "password": password}
    return None


def _auth_files() -> Iterator[Path]:
    if os.environ.get("REGISTRY_AUTH_FILE"):
        yield Path(os.environ["REGISTRY_AUTH_FILE"])
    if os.environ.get("XDG_RUNTIME_DIR"):
        yield Path(os.environ["XDG_RUNTIME_DIR"], "containers/auth.json")
    yield Path(f"/run/containers/{os.getuid()}/auth.json")
    yield Path.home() / ".config/containers/auth.json"
