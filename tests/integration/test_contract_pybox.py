"""The shipped contract, kept by the pybox backend: as root, where pybox is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from metaflow_extensions.sandbox.backends.interface import Feature, SandboxSpec
from metaflow_extensions.sandbox.testing.contract import BackendContract

from .images import tree, why_no_images
from .pybox import settings, why_no_pybox
from .suites import NO_CONTAINER_HAS

if reason := why_no_pybox() or why_no_images():
    # Of the whole file: no machine is required to have pybox, which is in no package registry.
    pytest.skip(reason, allow_module_level=True)


class TestPybox(BackendContract):
    """On a root file system directory made by the tests."""

    never = NO_CONTAINER_HAS | {Feature.MOUNT, Feature.NETWORK_HOST}
    keeps = ("metaflow-sandbox", "metaflow-sandbox/pybox")

    @pytest.fixture
    def backend(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
        from metaflow_extensions.sandbox.backends.pybox.backend import PyboxBackend

        for name, value in settings(tmp_path).items():
            monkeypatch.setenv(name, value)
        return PyboxBackend()

    def make_spec(self, **changes: Any) -> SandboxSpec:
        """The least that a sandbox needs: an image."""
        return super().make_spec(**{"image": str(tree()), **changes})
