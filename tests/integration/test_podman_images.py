"""Images: when they are pulled, with whose credentials, and what a registry that refuses becomes."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from metaflow_extensions.sandbox.errors import StartFailed, UnsupportedOption

pytest.importorskip("docker")

from docker.errors import NotFound

from metaflow_extensions.sandbox.backends.docker.backend import PodmanBackend
from metaflow_extensions.sandbox.backends.docker.engine import connect
from metaflow_extensions.sandbox.backends.interface import Command, SandboxSpec

from .engines import Podman
from .registry import NAME, PASSWORD, USER, Registry

Open = Callable[..., "list[str]"]
LOGIN = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


@pytest.fixture(autouse=True)
def no_logins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nobody is logged in anywhere, until a test says so."""
    (tmp_path / "docker").mkdir()
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "auth.json"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def opened(podman: Podman, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """Open a sandbox of an image and close it; the lines that the user was told."""
    monkeypatch.setenv("CONTAINER_HOST", podman.url)
    backend = PodmanBackend()
    engine = connect(podman_first=True).client

    def open_and_close(image: str, **options: object) -> list[str]:
        told: list[str] = []
        backend.open(SandboxSpec(image=image, options=options, tell=told.append)).close()
        return told

    registry.asked.clear()
    yield open_and_close
    for kind in registry.addresses:
        with contextlib.suppress(NotFound):
            engine.remove_image(registry.image(kind), noprune=True)


def test_missing_image_is_pulled_once(opened: Open, registry: Registry) -> None:
    """Guards the default policy: a line before and after a pull, and no word to the registry afterwards."""
    told = opened(registry.image())
    assert [line.partition(" the image ")[0] for line in (told[0], told[-1])] == ["pulling", "pulled"]
    assert all(registry.image() in line for line in told)
    assert registry.asked
    registry.asked.clear()
    assert (opened(registry.image()), registry.asked) == ([], [])


def test_pulled_image_gives_its_files_and_variables_only(
    opened: Open, podman: Podman, registry: Registry
) -> None:
    """Guards against an entrypoint, a command or a user of the image that take the place of the step's."""
    opened(registry.image())
    backend = PodmanBackend()
    sandbox = backend.open(SandboxSpec(image=registry.image()))
    try:
        code = "import os; print(os.getuid(), os.getgid(), os.environ['OF_THE_IMAGE'])"
        process = sandbox.start(Command(["python3", "-c", code]))
        assert b"".join(chunk.data for chunk in process.output()) == b"65534 65534 1\n"
        assert process.wait() == 0
    finally:
        sandbox.close()


def test_policy_never_asks_nobody(opened: Open, registry: Registry) -> None:
    """Guards machines that must not reach out."""
    with pytest.raises(UnsupportedOption, match=r"pull_policy='never': pull it first"):
        opened(registry.image(), pull_policy="never")
    assert registry.asked == []


def test_policy_always_asks_again(opened: Open, registry: Registry) -> None:
    """Guards tags that move."""
    opened(registry.image())
    registry.asked.clear()
    assert opened(registry.image(), pull_policy="always")
    assert f"GET /v2/{NAME}/manifests/latest" in registry.asked


@pytest.mark.parametrize("kind", ["private", "token"])
def test_denied_image_names_the_way_to_log_in(opened: Open, registry: Registry, kind: str) -> None:
    """Guards against tries that can't succeed, and an error that leaves the user alone."""
    with pytest.raises(UnsupportedOption, match="docker login or podman login") as raised:
        opened(registry.image(kind))
    assert registry.image(kind) in str(raised.value)


@pytest.mark.parametrize("kind", ["private", "token"])
@pytest.mark.parametrize("file", ["docker/config.json", "auth.json", "containers/auth.json"])
def test_login_of_docker_or_podman_is_used(
    opened: Open, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, file: str
) -> None:
    """Guards private registries through the credentials that the user has."""
    if file == "containers/auth.json":
        monkeypatch.delenv("REGISTRY_AUTH_FILE")
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(json.dumps({"auths": {registry.addresses[kind]: {"auth": LOGIN}}}))
    assert opened(registry.image(kind))


def test_wrong_password_is_a_denial(opened: Open, registry: Registry, tmp_path: Path) -> None:
    """Guards against trying a wrong password again and again until the registry locks the user out."""
    wrong = base64.b64encode(b"someone:wrong").decode()
    (tmp_path / "auth.json").write_text(
        json.dumps({"auths": {registry.addresses["private"]: {"auth": wrong}}})
    )
    with pytest.raises(UnsupportedOption, match="login"):
        opened(registry.image("private"))


def test_absent_image_is_the_users_mistake(opened: Open, registry: Registry) -> None:
    """Guards against tries that can't succeed: what is wrong is the name."""
    for image in (f"{registry.addresses['open']}/no/such:latest", f"{registry.image()[:-6]}no-such-tag"):
        with pytest.raises(UnsupportedOption, match="there is no image") as raised:
            opened(image)
        assert image in str(raised.value)


def test_failing_registry_may_be_tried_again(opened: Open, registry: Registry) -> None:
    """Guards against a step that fails for a registry's bad minute."""
    with pytest.raises(StartFailed, match="503") as raised:
        opened(registry.image("broken"))
    assert registry.image("broken") in str(raised.value)


def test_unreachable_registry_may_be_tried_again(opened: Open) -> None:
    """Guards the same where nobody listens."""
    with contextlib.closing(socket.socket()) as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(StartFailed, match="refused"):
            opened(f"127.0.0.1:{unused.getsockname()[1]}/{NAME}")


@pytest.mark.parametrize(
    "options",
    [{"pull_policy": "sometimes"}, {"pull_policy": 1}, {"pull": "always"}, {"network": ["a"]}],
    ids=str,
)
def test_options_that_mean_nothing_are_refused(opened: Open, options: dict[str, object]) -> None:
    """Guards against a misspelt option that is passed over."""
    with pytest.raises(UnsupportedOption, match=r"always|pull_policy, network"):
        opened(Podman.IMAGE, **options)


@pytest.mark.parametrize("image", ["UPPER/Case", "a b", "x@sha256:short", "--privileged"])
def test_reference_that_is_none_is_refused(opened: Open, image: str) -> None:
    """Guards against an engine's puzzled answer that is tried again."""
    with pytest.raises(UnsupportedOption, match="image"):
        opened(image)
