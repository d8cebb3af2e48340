"""The shipped contract, kept by the boxlite backend: over a stand-in for its server, and where KVM boots."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from metaflow_extensions.sandbox.backends.cgroups import available
from metaflow_extensions.sandbox.backends.interface import Feature, SandboxSpec
from metaflow_extensions.sandbox.testing.contract import BackendContract
from metaflow_extensions.sandbox.testing.parts import leaks

from .boxlite import BoxliteServer, boxlite_server
from .images import cache, layout
from .kvm import why_no_machines
from .machine import not_limited

boxlite = pytest.importorskip("boxlite", reason="the SDK is missing: pip install boxlite")

from metaflow_extensions.sandbox.backends.boxlite.backend import BoxliteBackend  # noqa: E402

KNOWN = {
    "test_disk_is_limited_wherever_it_is_writable": "BoxLite's disks are whole GiB: 32 MiB are refused",
}


@pytest.fixture(scope="module")
def server() -> Iterator[BoxliteServer]:
    """For all tests."""
    with boxlite_server() as running:
        yield running


class BoxliteContract(BackendContract):
    """Wherever the boxes are."""

    never = frozenset(set(Feature) - BoxliteBackend.features)
    cores = 1
    keeps = ("metaflow-sandbox", "metaflow-sandbox/boxlite")
    # The SDK keeps its threads and what wakes them.
    watched = leaks.WATCHED - {"descriptors", "threads"}
    known_failures = KNOWN


class TestBoxliteServer(BoxliteContract):
    """On a server."""

    known_failures = {**KNOWN, **not_limited()}  # noqa: RUF012 -- as in the base

    @pytest.fixture
    def backend(self, server: BoxliteServer, monkeypatch: pytest.MonkeyPatch) -> BoxliteBackend:
        for name, value in server.settings.items():
            monkeypatch.setenv(name, value)
        return BoxliteBackend()

    @pytest.mark.skipif(
        "cpu" not in available(), reason="the stand-in limits cores with a cgroup, none can be made"
    )
    def test_cpu_is_limited(self, backend: BoxliteBackend) -> None:
        """A share that is accepted and not enforced takes every core."""
        assert Feature.CPU_LIMIT in self.features
        super().test_cpu_is_limited(backend)


@pytest.mark.kvm
class TestBoxliteMachines(BoxliteContract):
    """In virtual machines of this machine."""

    patience = 180.0

    @pytest.fixture
    def backend(self, monkeypatch: pytest.MonkeyPatch) -> BoxliteBackend:
        reason = why_no_machines()
        if reason:
            pytest.xfail(reason)
        for name in ("BOXLITE_URL", "BOXLITE_REST_URL"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("METAFLOW_SANDBOX_BOXLITE_HOME", str(cache() / "boxlite"))
        return BoxliteBackend()

    def make_spec(self, **changes: Any) -> SandboxSpec:
        """A small machine with the test image."""
        return super().make_spec(**{"image": str(layout()), **changes})
