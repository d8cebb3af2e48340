"""The shipped contract, kept by the bubblewrap backend."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from metaflow_extensions.sandbox.backends.bubblewrap.backend import BubblewrapBackend
from metaflow_extensions.sandbox.backends.cgroups import available
from metaflow_extensions.sandbox.backends.interface import Backend
from metaflow_extensions.sandbox.testing.contract import BackendContract

# A child that got its memory may still be chosen to die for the next one's.
_SHARED_MEMORY = """
import os
said, say = os.pipe()
stay, hold = os.pipe()
for _ in range(6):
    if os.fork() == 0:
        os.close(hold)
        block = bytearray(100 << 20)
        block[::4096] = b"x" * len(block[::4096])
        os.close(say)
        os.read(stay, 1)
        os._exit(0)
os.close(say)
os.read(said, 1)
dead = 0
while os.waitpid(-1, os.WNOHANG)[0]:
    dead += 1
os.write(1, b"%d" % (6 - dead))
os._exit(0)
"""


class TestBubblewrap(BackendContract):
    """As whoever runs the tests: root and normal users take different ways into the sandbox."""

    python = sys.executable
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

    def test_memory_of_all_processes_together_is_limited(self, backend: Backend) -> None:
        """A limit for each process is none for a step that starts many; counted are those that live on."""
        sandbox = backend.open(self.make_spec(memory=256))
        try:
            result = self.run(sandbox, _SHARED_MEMORY)
        finally:
            self.within(sandbox.close)
        assert result.code != 0 or int(result.stdout) <= 2

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
