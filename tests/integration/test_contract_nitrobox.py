"""The shipped contract, kept by the nitrobox backend: Python 3.12 and newer, as root."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metaflow_extensions.sandbox.backends.interface import SandboxSpec
from metaflow_extensions.sandbox.testing.contract import BackendContract

from .images import tree, why_no_images
from .suites import NO_CONTAINER_HAS

nitrobox = pytest.importorskip("nitrobox", reason="nitrobox needs Python 3.12: pip install nitrobox")


class TestNitrobox(BackendContract):
    """On a root file system directory made by the tests."""

    never = NO_CONTAINER_HAS
    keeps = ("metaflow-sandbox", "metaflow-sandbox/nitrobox")

    @pytest.fixture
    def backend(self) -> Any:
        from metaflow_extensions.sandbox.backends.nitrobox.backend import NitroboxBackend

        reason = why_no_images()
        if reason:
            pytest.skip(reason)
        return NitroboxBackend()

    def make_spec(self, **changes: Any) -> SandboxSpec:
        """The least that a sandbox needs: an image."""
        return super().make_spec(**{"image": str(tree()), **changes})

    @pytest.fixture
    def tmp_path(self, tmp_path: Path) -> Path:
        """What is mounted must be open to the sandbox's user."""
        tmp_path.chmod(0o777)
        return tmp_path

    @pytest.fixture(scope="class", autouse=True)
    @staticmethod
    def keeper_of_all() -> None:
        """One process makes the sandboxes of all tests: none of them leaves it behind."""
        from metaflow_extensions.sandbox.backends.nitrobox.kept import keeper

        keeper().start()

    @pytest.fixture(autouse=True)
    def open_to_others(self) -> Iterator[None]:
        """The same for sockets and files that the tests make."""
        before = os.umask(0)
        yield
        os.umask(before)
