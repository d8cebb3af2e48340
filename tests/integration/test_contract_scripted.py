"""The contract on the scripted backend, which keeps it wherever no wall is needed."""

from __future__ import annotations

import sys
from typing import ClassVar

import pytest

from metaflow_extensions.sandbox.backends.interface import Feature
from metaflow_extensions.sandbox.testing.contract import BackendContract
from metaflow_extensions.sandbox.testing.scripted import ScriptedBackend


class TestScripted(BackendContract):
    """Plain processes have no walls: those tests must fail."""

    python = sys.executable
    never = frozenset(Feature) - {Feature.HOST_PYTHON, Feature.STDIN, Feature.GET, Feature.NETWORK_HOST}
    known_failures: ClassVar = {
        "test_files_of_the_host_are_not_seen": "plain processes share the host's files",
        "test_processes_of_the_host_are_not_seen": "plain processes share the host's process ids",
        "test_files_of_another_sandbox_are_not_seen": "plain processes share the host's files",
    }

    @pytest.fixture
    def backend(self) -> ScriptedBackend:
        return ScriptedBackend()
