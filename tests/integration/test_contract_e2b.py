"""The shipped contract, kept by the e2b backend over a stand-in for E2B."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from metaflow_extensions.sandbox.backends.interface import Feature
from metaflow_extensions.sandbox.testing.contract import BackendContract
from metaflow_extensions.sandbox.testing.parts import leaks

from .e2b import E2BServer, e2b_server

pytest.importorskip("e2b", reason="the SDK is missing: pip install e2b")

from metaflow_extensions.sandbox.backends.e2b.backend import E2BBackend


@pytest.fixture(scope="module")
def server() -> Iterator[E2BServer]:
    """For all tests."""
    with e2b_server() as running:
        yield running


class TestE2B(BackendContract):
    """With the real SDK."""

    cores = 1
    never = frozenset(set(Feature) - E2BBackend.features)
    # The SDK keeps its threads and connections.
    watched = leaks.WATCHED - {"descriptors", "threads"}

    @pytest.fixture
    def backend(self, server: E2BServer, monkeypatch: pytest.MonkeyPatch) -> E2BBackend:
        for name, value in server.settings.items():
            monkeypatch.setenv(name, value)
        return E2BBackend()
