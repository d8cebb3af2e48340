"""Where an engine is looked for, and what is made of its word about limits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

pytest.importorskip("docker")

from metaflow_extensions.sandbox.backends.docker.engine import connect, places
from metaflow_extensions.sandbox.backends.docker.limits import limits_of_docker, limits_of_podman
from metaflow_extensions.sandbox.backends.interface import Feature
from metaflow_extensions.sandbox.errors import BackendUnavailable

USUAL_DOCKER = ["unix:///var/run/docker.sock", "unix:///r/docker.sock"]
USUAL_PODMAN = ["unix:///r/podman/podman.sock", "unix:///run/podman/podman.sock"]
CGROUPS = frozenset({Feature.MEMORY_LIMIT, Feature.CPU_LIMIT, Feature.PROCESS_LIMIT})


@pytest.fixture(autouse=True)
def configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Docker's configuration of this test, without anything of the machine's."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT", "CONTAINER_HOST"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def urls(environ: Mapping[str, str], *, podman_first: bool = False) -> list[str]:
    """Where is looked."""
    environment = {"XDG_RUNTIME_DIR": "/r", **environ}
    return [place.url for place in places(podman_first=podman_first, environ=environment)]


@pytest.mark.parametrize(
    ("podman_first", "environ", "expected"),
    [
        (False, {}, [*USUAL_DOCKER, *USUAL_PODMAN]),
        (True, {}, [*USUAL_PODMAN, *USUAL_DOCKER]),
        (False, {"DOCKER_HOST": "unix:///d"}, ["unix:///d"]),
        (True, {"DOCKER_HOST": "unix:///d"}, ["unix:///d"]),
        (True, {"DOCKER_HOST": "unix:///d", "CONTAINER_HOST": "unix:///c"}, ["unix:///c"]),
        (False, {"CONTAINER_HOST": "unix:///c"}, [*USUAL_DOCKER, *USUAL_PODMAN]),
        (False, {"DOCKER_HOST": ""}, [*USUAL_DOCKER, *USUAL_PODMAN]),
    ],
)
def test_what_the_user_names_comes_first(
    podman_first: bool, environ: dict[str, str], expected: list[str]
) -> None:
    """Guards against another engine than the one that the user chose, where there are two."""
    assert urls(environ, podman_first=podman_first) == expected


def make_context(configuration: Path, name: str, host: str) -> None:
    """What ``docker context create`` writes."""
    place = configuration / "contexts" / "meta" / hashlib.sha256(name.encode()).hexdigest()
    place.mkdir(parents=True)
    endpoints = {"docker": {"Host": host, "SkipTLSVerify": False}}
    (place / "meta.json").write_text(json.dumps({"Name": name, "Metadata": {}, "Endpoints": endpoints}))


def test_current_context_is_tried_before_the_usual_places(configuration: Path) -> None:
    """Guards users of several engines, who switch with ``docker context use``."""
    make_context(configuration, "mine", "unix:///context.sock")
    (configuration / "config.json").write_text(json.dumps({"currentContext": "mine"}))
    assert urls({}) == ["unix:///context.sock", *USUAL_DOCKER, *USUAL_PODMAN]


def test_context_of_the_environment_wins(configuration: Path) -> None:
    """Guards DOCKER_CONTEXT over the configuration, as with Docker's own command."""
    make_context(configuration, "mine", "unix:///context.sock")
    make_context(configuration, "other", "unix:///other.sock")
    (configuration / "config.json").write_text(json.dumps({"currentContext": "mine"}))
    assert urls({"DOCKER_CONTEXT": "other"})[0] == "unix:///other.sock"
    with pytest.raises(BackendUnavailable, match="no Docker context 'absent'"):
        urls({"DOCKER_CONTEXT": "absent"})


@pytest.mark.parametrize(
    "url", ["tcp://build.example:2376", "ssh://user@build.example", "http://localhost:80"]
)
def test_engine_of_another_machine_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against mounts of paths that exist on the launcher alone, or hold something else there."""
    monkeypatch.setenv("DOCKER_HOST", url)
    with pytest.raises(BackendUnavailable, match=r"another machine.*unset DOCKER_HOST"):
        connect(podman_first=False)


def test_every_place_that_was_tried_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Guards against an error that leaves the user to guess what was looked at."""
    dead = tmp_path / "dead.sock"
    dead.touch()
    monkeypatch.setenv("DOCKER_HOST", f"unix://{dead}")
    with pytest.raises(BackendUnavailable, match=r"dead\.sock \(DOCKER_HOST: .*DOCKER_HOST=unix://"):
        connect(podman_first=False)


def test_limits_of_docker() -> None:
    """Guards against limits that the kernel does not enforce: Docker says which."""
    able = {"MemoryLimit": True, "CpuCfsQuota": True, "PidsLimit": True, "Runtimes": {"runc": {}}}
    assert limits_of_docker(able) == CGROUPS
    assert limits_of_docker({**able, "MemoryLimit": False}) == CGROUPS - {Feature.MEMORY_LIMIT}
    assert limits_of_docker({**able, "Runtimes": {"nvidia": {}}}) == CGROUPS | {Feature.GPU}
    assert limits_of_docker({}) == frozenset()


def test_limits_of_podman() -> None:
    """Guards against a rootless Podman, which passes over limits that it has no controllers for."""
    assert limits_of_podman({"host": {"cgroupControllers": ["cpu", "memory", "pids"]}}) == CGROUPS
    assert limits_of_podman({"host": {"cgroupControllers": ["memory", "pids"]}}) == CGROUPS - {
        Feature.CPU_LIMIT
    }
    for nothing in ({"host": {"cgroupControllers": []}}, {"host": {"cgroupControllers": None}}, {}):
        assert limits_of_podman(nothing) == frozenset()
