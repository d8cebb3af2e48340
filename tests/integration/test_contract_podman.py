"""The shipped contract, kept by the docker backend on a real Podman service."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from metaflow_extensions.sandbox.backends.docker.backend import PodmanBackend
from metaflow_extensions.sandbox.testing.contract import BackendContract

from .engines import Podman
from .suites import NO_CONTAINER_HAS


class TestPodman(BackendContract):
    """As root, on an engine of the tests' own."""

    never = NO_CONTAINER_HAS
    # The user's own base directory stays, with what is known of engines.
    keeps = ("metaflow-sandbox", "metaflow-sandbox/docker", "metaflow-sandbox/engine-*.json")

    @pytest.fixture
    def backend(self, podman: Podman, monkeypatch: pytest.MonkeyPatch) -> PodmanBackend:
        monkeypatch.setenv("CONTAINER_HOST", podman.url)
        return PodmanBackend()

    def make_spec(self, **changes: object) -> object:
        return super().make_spec(**{"image": Podman.IMAGE, **changes})

    @pytest.fixture
    def tmp_path(self, tmp_path: Path) -> Path:
        """What is mounted must be open to the container's user."""
        tmp_path.chmod(0o777)
        return tmp_path

    @pytest.fixture(autouse=True)
    def open_to_others(self) -> Iterator[None]:
        """The same for sockets and files that the tests make."""
        before = os.umask(0)
        yield
        os.umask(before)
