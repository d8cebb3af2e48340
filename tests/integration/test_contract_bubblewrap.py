"""The shipped contract, kept by the bubblewrap backend."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from metaflow_extensions.sandbox.backends.bubblewrap.backend import BubblewrapBackend
from metaflow_extensions.sandbox.backends.cgroups import available
from metaflow_extensions.sandbox.backends.interface import Feature
from metaflow_extensions.sandbox.testing.contract import BackendContract


class TestBubblewrap(BackendContract):
    """As whoever runs the tests: root and normal users take different ways into the sandbox."""

    python = sys.executable
    # What no Linux namespace gives: its refusal is what is tested.
    never = frozenset(
        {
            Feature.IMAGE,
            Feature.LAYERS,
            Feature.FILES,
            Feature.GET,
            Feature.GPU,
            Feature.NETWORK_PUBLIC,
            Feature.EGRESS_LIST,
        }
    )
    # The user's own base directory stays, empty.
    keeps = ("metaflow-sandbox",)
    known_failures = (
        {}
        if "memory" in available()
        else {"test_memory_of_all_processes_together_is_limited": "without a cgroup it is limited by process"}
    )

    @pytest.fixture
    def backend(self) -> BubblewrapBackend:
        return BubblewrapBackend()

    @pytest.fixture
    def tmp_path(self, tmp_path: Path) -> Path:
        """What root mounts must be open to others, as the backend says when it is not."""
        tmp_path.chmod(0o777)
        return tmp_path

    @pytest.fixture(autouse=True)
    def open_to_others(self) -> Iterator[None]:
        """The same for sockets and files that the tests make."""
        before = os.umask(0)
        yield
        os.umask(before)
