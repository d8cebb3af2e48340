"""Hostile probes, run in the real sandbox of the bubblewrap backend by whoever runs the tests."""

from __future__ import annotations

import json
import os
import platform
import secrets
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import metaflow_extensions.sandbox.backends as package
from metaflow_extensions.sandbox.backends import python_env
from metaflow_extensions.sandbox.backends.bubblewrap.backend import BubblewrapBackend, BubblewrapSandbox
from metaflow_extensions.sandbox.backends.interface import Command, SandboxSpec
from metaflow_extensions.sandbox.backends.local_state import base_directory

from . import probes
from .probe_numbers import NUMBERS

MACHINE = platform.machine()
HOSTILE = {
    **{f"read {name}": probe for name, probe in probes.FILES.items()},
    **{f"write {name}": probe for name, probe in probes.WRITES.items()},
    **{f"reach {name}": probe for name, probe in probes.NETWORK.items()},
    **{f"call {name}": probe for name, probe in probes.KERNEL.items()},
    **({f"call {name}": probe for name, probe in probes.X86_ONLY.items()} if MACHINE == "x86_64" else {}),
    **{f"gain {name}": probe for name, probe in probes.PRIVILEGES.items()},
}


@pytest.fixture(scope="module")
def given() -> Iterator[dict[str, Any]]:
    """Things of the host that a step must not get at, and where they are."""
    with tempfile.TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
        directory = Path(place)
        # Open to everyone on the host: only the sandbox's own walls are in the way.
        directory.chmod(0o755)
        (directory / "secret").write_text("of the host")
        canary, mark, abstract = (secrets.token_hex(16) for _ in range(3))
        patch.setenv("ISOLATION_CANARY", canary)
        by_path, by_name, by_port = (socket.socket(family) for family in (1, 1, 2))
        by_path.bind(str(directory / "socket"))
        (directory / "socket").chmod(0o777)
        by_name.bind("\0" + abstract)
        by_port.bind(("127.0.0.1", 0))
        for server in (by_path, by_name, by_port):
            server.listen()
        inheritable = os.open(directory / "secret", os.O_RDONLY)
        os.set_inheritable(inheritable, True)
        shown = {part for root in python_env.discover().roots for part in (root, *root.parents)}
        home = Path.home()
        with subprocess.Popen([sys.executable, "-c", "input()", mark], stdin=subprocess.PIPE) as outside:
            yield {
                "calls": NUMBERS[MACHINE],
                "secret": str(directory / "secret"),
                "home": [str(each) for each in home.iterdir() if each not in shown]
                if _listable(home)
                else [],
                "state": str(base_directory()),
                "pid": outside.pid,
                "canary": canary,
                "mark": mark[::-1],
                "port": by_port.getsockname()[1],
                "abstract": abstract,
                "socket": str(directory / "socket"),
                "prefix": sys.prefix,
                "packages": str(Path(pytest.__file__).parent),
                "source": str(Path(package.__path__[0])),
                "module": pytest.__file__,
                "namespaces": {each.name: str(each.readlink()) for each in Path("/proc/self/ns").iterdir()},
            }
            outside.communicate(b"\n")
        for server in (by_path, by_name, by_port):
            server.close()
        os.close(inheritable)


@pytest.fixture(scope="module")
def sandbox(given: dict[str, Any]) -> Iterator[BubblewrapSandbox]:
    """One sandbox for all probes; each gets a process of its own with fresh writable space."""
    sandbox = BubblewrapBackend().open(SandboxSpec(python=python_env.discover()))
    yield sandbox
    sandbox.close()


def run(sandbox: BubblewrapSandbox, probe: probes.Probe, given: dict[str, Any]) -> tuple[int, str]:
    process = sandbox.start(Command([sys.executable, "-I", "-c", probe.code, json.dumps(given)]))
    said = b"".join(chunk.data for chunk in process.output()).decode(errors="replace")
    return process.wait(), said


@pytest.mark.parametrize("name", HOSTILE)
def test_probe_is_refused(sandbox: BubblewrapSandbox, given: dict[str, Any], name: str) -> None:
    """A wall with a hole; where one wall alone should stop a probe, its errno says that it did."""
    code, said = run(sandbox, HOSTILE[name], given)
    assert code == probes.REFUSED, f"{name} worked, or the probe is wrong: {said}"
    if HOSTILE[name].errno:
        assert said.split()[0] == HOSTILE[name].errno


@pytest.mark.parametrize("name", probes.CONTROLS)
def test_honest_code_works(sandbox: BubblewrapSandbox, given: dict[str, Any], name: str) -> None:
    """Walls that are in the way of honest steps, and probes that fail for another reason than a wall."""
    code, said = run(sandbox, probes.CONTROLS[name], given)
    assert code == probes.WORKED, said


def test_probes_work_outside(given: dict[str, Any]) -> None:
    """Probes that can't succeed prove nothing: without a sandbox, those that only look get through."""
    harmless = [
        f"read {name}" for name in ("the host's /tmp", "the host's accounts", "command lines outside")
    ]
    harmless += [f"read {name}" for name in ("environment of the launcher", "the kernel's own file system")]
    harmless += [
        f"reach {name}" for name in ("the host's loopback", "an abstract socket", "a socket by its path")
    ]
    harmless += [f"gain the {kind} namespace of the host" for kind in ("mnt", "pid", "net", "ipc", "uts")]
    harmless += ["gain signalling a process outside", "gain new privileges by executing"]
    refused = {}
    for name in harmless:
        argv = [sys.executable, "-I", "-c", HOSTILE[name].code, json.dumps(given)]
        done = subprocess.run(argv, env={**os.environ, "TMPDIR": "/tmp"}, stdout=subprocess.PIPE)
        if done.returncode != probes.WORKED:
            refused[name] = done.stdout
    assert refused == {}


@pytest.mark.skipif(MACHINE != "x86_64", reason="32-bit calls by an interrupt are those of x86")
def test_foreign_architecture_is_killed(sandbox: BubblewrapSandbox, given: dict[str, Any]) -> None:
    """Calls of another architecture have other numbers, which the filter would read as harmless ones."""
    code = """
    import mmap
    page = mmap.mmap(-1, 4096, prot=7)
    # mov eax, 20 (getpid of i386); int 0x80; ret
    page.write(bytes.fromhex("b814000000cd80c3"))
    ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
    """
    assert run(sandbox, probes.Probe(code), given)[0] == 128 + 31  # SIGSYS


def _listable(directory: Path) -> bool:
    return directory.is_dir() and os.access(directory, os.R_OK | os.X_OK)
