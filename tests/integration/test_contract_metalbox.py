"""The shipped contract, kept by the metalbox backend: with the real server on macOS, elsewhere a stand-in."""

from __future__ import annotations

import sys

import pytest

from metaflow_extensions.sandbox.backends.interface import Feature
from metaflow_extensions.sandbox.backends.metalbox.backend import MetalboxBackend
from metaflow_extensions.sandbox.testing.contract import BackendContract

from . import metalbox

_NO_PUT = "a process has no file system of its own to put files into: refused"
_POLLS = "MetalBox looks at memory every 5 seconds: what is quicker passes"
_SHARES = "a process shares the host's, readable but for the user's home"
# What Apple's sandbox refuses to the service is open on the stand-in.
_OPEN = "the stand-in has no sandbox-exec"
_KNOWN = {
    "test_put_bytes_are_exact": _NO_PUT,
    "test_put_name_is_not_interpreted": _NO_PUT,
    "test_put_file_is_readable_inside": _NO_PUT,
    "test_put_several_and_again": _NO_PUT,
    "test_put_is_a_copy": _NO_PUT,
    "test_memory_of_one_process_is_limited": _POLLS,
    "test_memory_of_all_processes_together_is_limited": _POLLS,
    "test_files_of_the_host_are_not_seen": _SHARES,
    "test_processes_of_the_host_are_not_seen": _OPEN,
    "test_environment_of_the_launcher_is_in_no_process": _OPEN,
}
_KNOWN_OF_STAND_IN = {
    "test_network_none_cuts_the_hosts_loopback": _OPEN,
    "test_network_none_cuts_abstract_sockets": _OPEN,
    "test_files_of_another_sandbox_are_not_seen": _OPEN,
}


class TestMetalbox(BackendContract):
    """What the stand-in can't refuse is what macOS's sandbox profile would."""

    python = sys.executable
    never = frozenset(set(Feature) - MetalboxBackend.features)
    keeps = ("metaflow-sandbox",)
    known_failures = _KNOWN if metalbox.REAL else {**_KNOWN, **_KNOWN_OF_STAND_IN}

    @pytest.fixture
    def backend(
        self, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
    ) -> MetalboxBackend:
        # A guard that looks later than any test lasts: memory that grows within 5 s passes on macOS too.
        place = tmp_path_factory.mktemp("metalbox")
        for name, value in metalbox.settings(place, guard=600).items():
            monkeypatch.setenv(name, value)
        return MetalboxBackend()
