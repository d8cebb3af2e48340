"""The shipped contract, kept by the microsandbox backend: over a stand-in of its cloud, and for real."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metaflow_extensions.sandbox.backends.cgroups import available
from metaflow_extensions.sandbox.backends.interface import Feature, SandboxSpec
from metaflow_extensions.sandbox.testing.contract import BackendContract

pytest.importorskip("microsandbox", reason="the SDK is not installed: pip install microsandbox")

from metaflow_extensions.sandbox.backends.microsandbox.backend import MicrosandboxBackend
from metaflow_extensions.sandbox.backends.microsandbox.place import KEY, URL

from .images import layout_archive
from .kvm import why_no_machines
from .machine import not_limited
from .microsandboxes import StandIn, stand_in


@pytest.fixture(scope="module")
def cloud() -> Iterator[StandIn]:
    with stand_in() as running:
        yield running


class Contract(BackendContract):
    """What holds for both."""

    never = frozenset(set(Feature) - MicrosandboxBackend.features)
    cores = 1
    # The SDK's own threads and connections stay.
    watched = frozenset({"processes", "mounts", "files"})


class TestMicrosandbox(Contract):
    """Over the stand-in."""

    known_failures = {  # noqa: RUF012 -- as in the base
        "test_disk_is_limited_wherever_it_is_writable": "the stand-in's disk is a directory of the host's",
        **not_limited(),
    }

    @pytest.fixture
    def backend(self, cloud: StandIn, monkeypatch: pytest.MonkeyPatch) -> MicrosandboxBackend:
        for name, value in cloud.settings.items():
            monkeypatch.setenv(name, value)
        return MicrosandboxBackend()

    @pytest.mark.skipif(
        "cpu" not in available(), reason="the stand-in limits cores with a cgroup, none can be made"
    )
    def test_cpu_is_limited(self, backend: MicrosandboxBackend) -> None:
        """A share that is accepted and not enforced takes every core."""
        assert Feature.CPU_LIMIT in self.features
        super().test_cpu_is_limited(backend)

    def make_spec(self, **changes: Any) -> SandboxSpec:
        return super().make_spec(**{"image": StandIn.image, **changes})


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """Where the SDK keeps everything; the test's own temporary directory would be too long for sockets."""
    with tempfile.TemporaryDirectory(prefix="msb", dir="/tmp") as name:
        yield Path(name)


@pytest.mark.kvm
class TestMicrosandboxForReal(Contract):
    """With real virtual machines of this one."""

    patience = 180.0
    known_failures = {  # noqa: RUF012 -- as in the base
        "test_disk_is_limited_wherever_it_is_writable": "what is written to memory counts as memory"
    }

    @pytest.fixture
    def backend(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> MicrosandboxBackend:
        reason = why_no_machines()
        if reason:
            pytest.xfail(reason)
        for name in (URL, KEY):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("MSB_HOME", str(home))
        return MicrosandboxBackend()

    def make_spec(self, **changes: Any) -> SandboxSpec:
        return super().make_spec(**{"image": str(layout_archive()), **changes})
