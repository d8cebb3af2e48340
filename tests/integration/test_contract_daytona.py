"""The shipped contract, kept by the daytona backend over a stand-in for Daytona."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from metaflow_extensions.sandbox.backends.interface import Feature
from metaflow_extensions.sandbox.testing.contract import BackendContract
from metaflow_extensions.sandbox.testing.parts import leaks

from .daytona import DaytonaServer, daytona_server

pytest.importorskip("daytona", reason="the SDK is missing: pip install daytona")

from metaflow_extensions.sandbox.backends.daytona.backend import DaytonaBackend

WHOLE = "Daytona has whole cores and GiB only: the rest is refused"


@pytest.fixture(scope="module")
def server() -> Iterator[DaytonaServer]:
    """For all tests."""
    with daytona_server() as running:
        yield running


class TestDaytona(BackendContract):
    """On the stand-in; what takes whole cores and GiB is tried in test_daytona.py."""

    never = frozenset(set(Feature) - DaytonaBackend.features)
    # The SDK keeps threads, connections and what wakes them.
    watched = leaks.WATCHED - {"descriptors", "threads"}
    known_failures = {  # noqa: RUF012
        "test_network_public_does_not_reach_the_hosts_loopback": "the stand-in's sandboxes have the host's",
        "test_cpu_is_limited": WHOLE,
        "test_disk_is_limited_wherever_it_is_writable": WHOLE,
        "test_memory_of_one_process_is_limited": WHOLE,
        "test_memory_below_the_limit_is_given": WHOLE,
        "test_memory_of_all_processes_together_is_limited": WHOLE,
    }

    @pytest.fixture
    def backend(self, server: DaytonaServer, monkeypatch: pytest.MonkeyPatch) -> DaytonaBackend:
        for name, value in server.settings.items():
            monkeypatch.setenv(name, value)
        return DaytonaBackend()
