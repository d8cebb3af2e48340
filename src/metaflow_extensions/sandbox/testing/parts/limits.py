"""Limits and refusals: what is declared is enforced, what isn't is refused."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from ...backends.interface import Backend, Feature, Layer, Mount, PythonEnvironment, Sandbox, Secret
from ...errors import UnsupportedOption
from .base import ContractBase, Result

_OPTIONS: Mapping[Feature, Mapping[str, Any]] = {
    Feature.IMAGE: {"image": "contract-does-not-exist:none"},
    Feature.CPU_LIMIT: {"cpu": 0.5},
    Feature.MEMORY_LIMIT: {"memory": 256},
    Feature.DISK_LIMIT: {"disk": 32},
    Feature.PROCESS_LIMIT: {"processes": 32},
    Feature.GPU: {"gpu": 1},
    Feature.SECRETS: {"secrets": [Secret("CONTRACT", "contract", ("example.org",))]},
    Feature.LAYERS: {"layer": Layer("contract", Path("/dev/null"), PurePosixPath("/opt/contract"))},
    Feature.NETWORK_OFF: {"network": "none"},
    Feature.NETWORK_HOST: {"network": "host"},
    Feature.NETWORK_PUBLIC: {"network": "public"},
    Feature.EGRESS_LIST: {"network": ("example.org",)},
    Feature.MOUNT: {"mounts": [Mount(Path("/tmp"), PurePosixPath("/mnt/contract"))]},
    Feature.HOST_PYTHON: {"python": PythonEnvironment(Path("/usr/bin/python3"))},
}
_NONSENSE = [{"network": "internet"}, {"network": ()}, {"options": {"no-such-option": 1}}]

# A child that got its memory may still be chosen to die for the next one's: counted are those that live on.
_SHARED_MEMORY = """
import os, sys, time
children, mebibytes = int(sys.argv[1]), int(sys.argv[2])
said, say = os.pipe()
stay, hold = os.pipe()
for _ in range(children):
    if os.fork() == 0:
        os.close(hold)
        block = bytearray(mebibytes << 20)
        block[::4096] = b"x" * len(block[::4096])
        os.close(say)
        os.read(stay, 1)
        os._exit(0)
os.close(say)
os.read(said, 1)
time.sleep(0.2)
dead = 0
while os.waitpid(-1, os.WNOHANG)[0]:
    dead += 1
os.write(1, b"%d" % (children - dead))
os._exit(0)
"""


class LimitsContract(ContractBase):
    """An option is honoured or refused, never forgotten."""

    def test_undeclared_options_are_refused(self, backend: Backend) -> None:
        """An option that is ignored, with a warning or without, is a wall or a limit that isn't there."""
        undeclared = {feature: change for feature, change in _OPTIONS.items() if feature not in self.features}
        for change in undeclared.values():
            with pytest.raises(UnsupportedOption):
                backend.open(self.make_spec(**change)).close()
        assert not list(backend.list({"contract": self.label}))

    def test_undeclared_abilities_are_refused(self, sandbox: Sandbox, tmp_path: Path) -> None:
        """Input that is dropped hangs its reader; a copy that brings nothing looks like an empty result."""
        refused = set()
        try:
            self.within(sandbox.start(self.command("", stdin=True)).kill)
        except UnsupportedOption:
            refused.add(Feature.STDIN)
        try:
            sandbox.get(PurePosixPath("/tmp/contract/absent"), tmp_path / "file")
        except UnsupportedOption:
            refused.add(Feature.GET)
        except FileNotFoundError:
            pass
        assert refused == {Feature.STDIN, Feature.GET} - self.features
        assert not (tmp_path / "file").exists()

    @pytest.mark.parametrize("change", _NONSENSE, ids=str)
    def test_nonsense_is_refused(self, backend: Backend, change: dict[str, Any]) -> None:
        """A misspelt network or option must not mean the default."""
        with pytest.raises(UnsupportedOption):
            backend.open(self.make_spec(**change))
        assert not list(backend.list({"contract": self.label}))

    def test_memory_of_one_process_is_limited(self, backend: Backend) -> None:
        """A limit that is accepted and not enforced takes the host's memory."""
        self.needs(Feature.MEMORY_LIMIT)
        code = """
        import os
        blocks = []
        for _ in range(64):
            blocks.append(bytearray(16 << 20))
            blocks[-1][::4096] = b"x" * len(blocks[-1][::4096])
        os.write(1, b"survived")
        """
        result = self._run(backend, code, memory=256)
        assert result.code != 0
        assert b"survived" not in result.stdout

    def test_memory_below_the_limit_is_given(self, backend: Backend) -> None:
        """A limit that counts address space or the tool's own memory refuses what was promised."""
        self.needs(Feature.MEMORY_LIMIT)
        code = """
        import os
        block = bytearray(96 << 20)
        block[::4096] = b"x" * len(block[::4096])
        os.write(1, b"ok")
        """
        assert self._run(backend, code, memory=256) == Result(0, b"ok", b"")

    def test_memory_of_all_processes_together_is_limited(self, backend: Backend) -> None:
        """A limit for each process is none for a step that starts many."""
        self.needs(Feature.MEMORY_LIMIT)
        result = self._run(backend, _SHARED_MEMORY, "6", "100", memory=256)
        assert result.code != 0 or int(result.stdout) <= 2

    def test_processes_are_limited(self, backend: Backend) -> None:
        """A fork bomb takes the host's process ids."""
        self.needs(Feature.PROCESS_LIMIT)
        code = """
        import os, signal
        children = []
        try:
            while len(children) < 200:
                child = os.fork()
                if child == 0:
                    signal.pause()
                children.append(child)
        except OSError:
            pass
        for child in children:
            os.kill(child, signal.SIGKILL)
        os.write(1, b"%d" % len(children))
        """
        result = self._run(backend, code, processes=32)
        assert (result.code, result.stderr) == (0, b"")
        assert 8 <= int(result.stdout) <= 32

    def test_disk_is_limited_wherever_it_is_writable(self, backend: Backend) -> None:
        """One directory without the limit is enough to fill the host's disk or memory."""
        self.needs(Feature.DISK_LIMIT)
        code = """
        import json, os
        places = [os.getcwd(), os.environ["HOME"], os.environ["TMPDIR"]]
        places += ["/tmp", "/dev/shm", "/var/tmp", "/run", "/dev", "/"]
        written = {}
        for place in places:
            count = 0
            try:
                while count < 100:
                    with open(os.path.join(place, "fill%d" % count), "wb") as file:
                        file.write(b"x" * (1 << 20))
                    count += 1
            except OSError:
                pass
            written[place] = count
            for number in range(count + 1):
                try:
                    os.unlink(os.path.join(place, "fill%d" % number))
                except OSError:
                    pass
        print(json.dumps(written))
        """
        sandbox = backend.open(self.make_spec(disk=32))
        try:
            written = self.run_json(sandbox, code)
        finally:
            self.within(sandbox.close)
        assert {place: mebibytes for place, mebibytes in written.items() if mebibytes > 32} == {}
        assert max(written.values()) >= 16

    def test_cpu_is_limited(self, backend: Backend) -> None:
        """A share that is accepted and not enforced takes every core."""
        self.needs(Feature.CPU_LIMIT)
        if (os.cpu_count() or 1) < 4 * self.cores:
            pytest.skip("this machine has too few cores to pass the limit")
        code = """
        import json, os, time
        start = time.monotonic()
        children = []
        for _ in range(4):
            child = os.fork()
            if child == 0:
                while time.monotonic() - start < 2:
                    pass
                os._exit(0)
            children.append(child)
        for child in children:
            os.waitpid(child, 0)
        used = os.times()
        print(json.dumps([used.children_user + used.children_system, time.monotonic() - start]))
        """
        sandbox = backend.open(self.make_spec(cpu=self.cores))
        try:
            used, passed = self.run_json(sandbox, code)
        finally:
            self.within(sandbox.close)
        # A ratio, with room for a scheduler's period; unlimited it is the number of cores.
        assert used / passed < 2 * self.cores

    def _run(self, backend: Backend, code: str, *arguments: str, **changes: Any) -> Result:
        sandbox = backend.open(self.make_spec(**changes))
        try:
            return self.run(sandbox, code, *arguments)
        finally:
            self.within(sandbox.close)
