"""Where the engine is, and what it can limit."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import docker
import requests
from docker.constants import DEFAULT_DOCKER_API_VERSION
from docker.context import ContextAPI
from docker.errors import DockerException
from docker.utils import version_lt

from ...errors import BackendUnavailable
from ..interface import Feature
from .limits import limits

TIMEOUT = 120  # seconds for one answer of the engine
# The SDK would keep a connection open for each address asked for; a new one costs a unix socket nothing.
NOT_KEPT = {"Connection": "close"}
REMOTE = (
    "the engine at {url} is on another machine, where the flow's code and the relay can't be mounted: unset "
    "{origin}, or point it to a unix socket of this machine"
)
MISSING = (
    "no {wanted} engine answers on this machine; tried {tried}. Start one (systemctl start docker, or "
    "systemctl --user start podman.socket), or name its socket: DOCKER_HOST=unix:///path/to.sock"
)


@dataclass(frozen=True)
class Place:
    """Where an engine may listen, and what says so."""

    url: str
    origin: str


@dataclass(frozen=True)
class Engine:
    """An engine that answers; ``limits`` are those that its kernel enforces, and GPU."""

    client: docker.APIClient
    url: str
    is_podman: bool
    limits: frozenset[Feature]


def connect(*, podman_first: bool) -> Engine:
    """The first engine that answers. Raises BackendUnavailable, naming those that were tried."""
    tried = []
    for place in places(podman_first=podman_first):
        try:
            found = _connect(place)
        except (DockerException, requests.exceptions.RequestException) as error:
            tried.append(f"{place.url} ({place.origin}: {_shortly(error)})")
            continue
        if found:
            return found
        tried.append(f"{place.url} ({place.origin}: no such socket)")
    wanted = "Podman" if podman_first else "Docker"
    raise BackendUnavailable(MISSING.format(wanted=wanted, tried="; ".join(tried) or "nothing"))


def places(
    *, podman_first: bool, environ: Mapping[str, str] = os.environ, uid: int | None = None
) -> Iterator[Place]:
    """Where to look, in order; what the user names is the only one."""
    names = ("CONTAINER_HOST", "DOCKER_HOST") if podman_first else ("DOCKER_HOST",)
    named = [Place(environ[name], name) for name in names if environ.get(name)]
    if named:
        yield named[0]
        return
    runtime = environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid() if uid is None else uid}"
    podman = [f"{runtime}/podman/podman.sock", "/run/podman/podman.sock"]
    docker_ = ["/var/run/docker.sock", f"{runtime}/docker.sock"]
    if not podman_first:
        yield from _of_context(environ)
    for path in [*podman, *docker_] if podman_first else [*docker_, *podman]:
        yield Place(f"unix://{path}", "its usual place")


def _of_context(environ: Mapping[str, str]) -> Iterator[Place]:
    """The engine of the user's current Docker context, unless it is the usual one."""
    named = environ.get("DOCKER_CONTEXT")
    context = ContextAPI.get_context(named)
    if named and context is None:
        raise BackendUnavailable(
            f"there is no Docker context {named!r}, as DOCKER_CONTEXT says: docker context ls"
        )
    if context is not None and context.name != "default" and context.Host:
        yield Place(context.Host, f"the Docker context {context.name!r}")


def _connect(place: Place) -> Engine | None:
    """The engine there, None when there is no socket. Raises BackendUnavailable for another machine's."""
    if not place.url.startswith("unix://"):
        raise BackendUnavailable(REMOTE.format(url=place.url, origin=place.origin))
    path = place.url.removeprefix("unix://")
    if not Path(path).exists():
        return None
    client, said = _greet(place.url)
    podman = said.get("Libpod-Api-Version")
    return Engine(client, place.url, podman is not None, limits(client, Path(path), podman))


def client_of(url: str) -> docker.APIClient:
    """A client of the engine there, which may be used by many threads at once."""
    return _greet(url)[0]


def _greet(url: str) -> tuple[docker.APIClient, Mapping[str, str]]:
    """A client in the newest version that both know, and the headers of the engine's shortest answer.

    To say all that /version says takes Podman a quarter of a second.
    """
    stranger = docker.APIClient(url, DEFAULT_DOCKER_API_VERSION, TIMEOUT)
    stranger.headers.update(NOT_KEPT)
    answer = stranger.get(f"{stranger.base_url}/_ping", timeout=TIMEOUT)
    answer.raise_for_status()
    known = answer.headers.get("Api-Version", DEFAULT_DOCKER_API_VERSION)
    version = known if version_lt(known, DEFAULT_DOCKER_API_VERSION) else DEFAULT_DOCKER_API_VERSION
    client = docker.APIClient(url, version, TIMEOUT)
    client.headers.update(NOT_KEPT)
    return client, answer.headers


def _shortly(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
