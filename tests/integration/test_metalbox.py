"""MetalBox's own traps: a server that dies, its open API, late kills, caps that miss the step, leftovers."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metaflow_extensions.sandbox.backends.interface import Command, Isolation, SandboxSpec
from metaflow_extensions.sandbox.backends.local_state import base_directory
from metaflow_extensions.sandbox.backends.metalbox import server
from metaflow_extensions.sandbox.backends.metalbox.backend import MetalboxBackend
from metaflow_extensions.sandbox.backends.metalbox.sandbox import MetalboxSandbox
from metaflow_extensions.sandbox.backends.metalbox.server import CHOICE, STRICT
from metaflow_extensions.sandbox.backends.options import require_isolation
from metaflow_extensions.sandbox.errors import (
    BackendUnavailable,
    SandboxLost,
    StartFailed,
    UnsupportedOption,
)
from metaflow_extensions.sandbox.testing.contract import host_python
from metaflow_extensions.sandbox.testing.parts import launcher

from . import metalbox

# Its last word is to be found in lists of processes.
SLEEP = [
    *(sys.executable, "-I", "-S", "-c", "import os, time; os.write(1, b'up'); time.sleep(600)"),
    f"mark-{uuid.uuid4().hex}",
]


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary directory of the test's own, the same for other processes, made after pytest's."""
    with tempfile.TemporaryDirectory(prefix="sbx") as name:
        for variable in ("TMPDIR", "XDG_RUNTIME_DIR"):
            monkeypatch.setenv(variable, name)
        monkeypatch.setattr(tempfile, "tempdir", name)
        yield Path(name)


@pytest.fixture
def backend(temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MetalboxBackend:
    """The backend, whose server looks at memory often where it is the stand-in."""
    for name, value in metalbox.settings(tmp_path, guard=0.05).items():
        monkeypatch.setenv(name, value)
    return MetalboxBackend()


def spec(**changes: Any) -> SandboxSpec:
    """The least that is needed."""
    return SandboxSpec(**{"python": host_python(), **changes})


@contextlib.contextmanager
def opened(backend: MetalboxBackend, **changes: Any) -> Iterator[MetalboxSandbox]:
    """A sandbox, closed at the end."""
    sandbox = backend.open(spec(**changes))
    try:
        yield sandbox
    finally:
        sandbox.close()


def python(code: str, **changes: Any) -> Command:
    """A command that runs Python code, with its search path and site directories."""
    return Command([sys.executable, "-c", code], **changes)


def run(sandbox: MetalboxSandbox, command: Command) -> tuple[int, bytes]:
    """Exit code and all output."""
    process = sandbox.start(command)
    said = b"".join(chunk.data for chunk in process.output())
    return process.wait(), said


def post(sandbox: MetalboxSandbox, path: str) -> None:
    """What anyone who reaches the port can do."""
    connection = http.client.HTTPConnection("127.0.0.1", sandbox.server.port, timeout=30)
    connection.request("POST", path)
    connection.getresponse().read()
    connection.close()


def alive(sandbox_id: str) -> list[str]:
    """Command lines of the processes that run in the sandbox: its runners, and every SLEEP."""
    words = ["ps", "-A", "-ww", "-o", "stat=,command="]
    listing = subprocess.run(words, capture_output=True, text=True).stdout.splitlines()
    ours = [line for line in listing if f"{sandbox_id}/" in line or line.endswith(SLEEP[-1])]
    return [line for line in ours if not line.startswith("Z")]


def test_a_dead_server_is_a_lost_sandbox(backend: MetalboxBackend) -> None:
    """Guards against waiting for an exit code that nobody will tell, and leaving the command at work."""
    with opened(backend) as sandbox:
        process = sandbox.start(Command(SLEEP))
        output = process.output()
        assert next(output).data == b"up"
        assert len(alive(sandbox.id)) == 2
        post(sandbox, "/api/shutdown")
        with pytest.raises(SandboxLost, match="server"):
            list(output)
        assert alive(sandbox.id) == []
        with pytest.raises(StartFailed):
            sandbox.start(Command(["true"]))


@pytest.mark.parametrize(
    "code", ["signal.pause()", "signal.signal(15, lambda *_: os._exit(0)); signal.pause()"]
)
def test_a_service_stopped_through_the_api_is_no_result(backend: MetalboxBackend, code: str) -> None:
    """Guards against a step that counts as done because somebody stopped it."""
    with opened(backend) as sandbox:
        process = sandbox.start(python(f"import os, signal; print('up', flush=True); {code}"))
        output = process.output()
        assert next(output).data == b"up\n"
        post(sandbox, f"/api/services/{sandbox.id}-1/stop")
        with pytest.raises(SandboxLost, match="from outside"):
            process.wait()


def test_the_memory_guard_kills_with_137(backend: MetalboxBackend) -> None:
    """Guards the translation of the limit, also for a child, and of MetalBox's polite kill."""
    code = """
import os, time
if os.fork() == 0:
    block = bytearray(300 << 20)
    block[::4096] = b"x" * len(block[::4096])
    time.sleep(600)
os.wait()
os._exit(0)
"""
    with opened(backend, memory=128) as sandbox:
        assert run(sandbox, python(code)) == (137, b"")


def test_strict_refuses(backend: MetalboxBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the promise that strict users never have an open port."""
    monkeypatch.setenv(STRICT, "1")
    for attempt in (backend.check, lambda: backend.open(spec())):
        with pytest.raises(BackendUnavailable, match=STRICT):
            attempt()
    assert list(backend.list({})) == []


def test_users_are_told_of_the_open_port(backend: MetalboxBackend) -> None:
    """Guards the warning."""
    told: list[str] = []
    with opened(backend, tell=told.append) as sandbox:
        assert f"port {sandbox.server.port} of all interfaces" in told[0]


@pytest.mark.skipif(metalbox.REAL, reason="this is the system that it needs")
def test_other_systems_are_refused(backend: MetalboxBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a process without any wall where MetalBox has no macOS to ask for one."""
    monkeypatch.delenv(CHOICE)
    for attempt in (backend.check, lambda: backend.open(spec())):
        with pytest.raises(BackendUnavailable, match="Apple silicon"):
            attempt()


@pytest.mark.parametrize(
    ("program", "said"),
    [("echo bad news >&2; exit 1", "bad news"), ("exit 0", "nothing")],
    ids=["said", "mute"],
)
def test_a_server_that_does_not_run_is_explained(
    backend: MetalboxBackend,
    temporary: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    program: str,
    said: str,
) -> None:
    """Guards the message, and that nothing stays of a sandbox that never was."""
    binary = tmp_path / "broken"
    binary.write_text(f"#!/bin/sh\n{program}\n")
    binary.chmod(0o755)
    monkeypatch.setenv(CHOICE, str(binary))
    with pytest.raises(StartFailed, match=said):
        backend.open(spec())
    with pytest.raises(BackendUnavailable, match=said):
        backend.check()
    assert list((temporary / "metaflow-sandbox").iterdir()) == []


def test_secrets_are_in_no_file_while_the_command_runs(backend: MetalboxBackend) -> None:
    """Guards the environment of a step: MetalBox's own files are open to every user."""
    with opened(backend) as sandbox:
        process = sandbox.start(Command(SLEEP, env={"SECRET": "contract-secret"}))
        assert next(process.output()).data == b"up"
        files = [path for path in (base_directory() / sandbox.id).rglob("*") if path.is_file()]
        assert any(path.name == "metalbox.yml" for path in files)
        assert [path for path in files if b"contract-secret" in path.read_bytes()] == []


def test_the_reason_of_a_failed_start_is_told(backend: MetalboxBackend) -> None:
    """Guards against a program that can't be executed passing for one that failed."""
    with opened(backend) as sandbox:
        with pytest.raises(StartFailed, match="no-such-program"):
            sandbox.start(Command(["/no-such-program"]))
        assert run(sandbox, Command(["true"])) == (0, b"")


def test_a_lifetime_ends_the_sandbox(backend: MetalboxBackend) -> None:
    """Guards the limit that holds when nobody closes."""
    with opened(backend, lifetime=1) as sandbox:
        process = sandbox.start(Command(SLEEP))
        with pytest.raises(SandboxLost, match="lifetime"):
            process.wait()
        with pytest.raises(SandboxLost, match="lifetime"):
            sandbox.start(Command(["true"]))


def test_metal_caps_reach_every_python_of_the_step(backend: MetalboxBackend, tmp_path: Path) -> None:
    """Guards against caps on the runner alone, and against a sitecustomize that hides the step's own."""
    for name, text in {
        "mlx/__init__.py": "",
        "mlx/core.py": "caps = []\nset_memory_limit = caps.append\n"
        "class metal: set_cache_limit = lambda size: caps.append(-size)\n",
        "sitecustomize.py": "import os; os.environ['CUSTOMIZED'] = 'yes'\n",
    }.items():
        (tmp_path / "lib" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "lib" / name).write_text(text)
    inner = "import os, mlx.core; print(mlx.core.caps, os.environ['CUSTOMIZED'])"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    options = {"metal_memory": 64, "metal_cache": 16, "cpus": "default"}
    with opened(backend, options=options) as sandbox:
        command = python(code, env={"PYTHONPATH": str(tmp_path / "lib")})
        assert run(sandbox, command) == (0, f"[{64 << 20}, -{16 << 20}] yes\n".encode())


@pytest.mark.parametrize(
    "options",
    [{"metal_memory": "2g"}, {"cpus": 4}, {"read_only": ["relative"]}, {"read_only": ['/a"b']}, {"x": 1}],
)
def test_wrong_options_are_refused(backend: MetalboxBackend, options: dict[str, Any]) -> None:
    """Guards against an option that is taken for another, or that breaks out of the profile."""
    with pytest.raises(UnsupportedOption):
        backend.open(spec(options=options))
    assert list(backend.list({})) == []


def test_stronger_isolation_is_refused(backend: MetalboxBackend) -> None:
    """Guards against a plain process for whoever asks for a container."""
    assert backend.isolation is Isolation.PROCESS
    with pytest.raises(UnsupportedOption):
        require_isolation(backend, "metalbox", "container")


def test_a_taken_port_is_not_mistaken_for_the_server(backend: MetalboxBackend) -> None:
    """Guards against speaking to another program that took the port in between."""
    with opened(backend) as first, opened(backend) as second:
        assert first.server.port != second.server.port
        with pytest.raises(SandboxLost):
            second.server.state(f"{first.id}-1")
        with socket.create_connection(("127.0.0.1", second.server.port)):
            assert run(second, Command(["echo", "mine"])) == (0, b"mine\n")


def test_a_server_that_took_the_port_is_told_from_ours(
    backend: MetalboxBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against starting a step on another sandbox's server, which answers before ours has failed."""
    with opened(backend) as first:
        ports = iter([first.server.port])
        free = server._free_port
        monkeypatch.setattr(server, "_free_port", lambda: next(ports, None) or free())
        with opened(backend) as second:
            assert first.server.port != second.server.port
            assert run(second, Command(["echo", "mine"])) == (0, b"mine\n")


def test_a_killed_launcher_leaves_nothing(backend: MetalboxBackend, temporary: Path) -> None:
    """Guards against a server, a step and their directories that outlive a SIGKILL of their launcher."""
    request = {"backend": "metalbox", "spec": dataclasses.asdict(spec()), "argv": SLEEP}
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    words = [sys.executable, launcher.__file__, json.dumps(request, default=str)]
    with subprocess.Popen(words, env=env, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout
        sandbox_id = other.stdout.readline().strip()
        left = alive(sandbox_id)
        other.kill()
    assert len(left) == 2

    def kept() -> list[str]:
        # Unlike rglob, walk takes it that directories vanish meanwhile.
        found = [name for _, folders, files in os.walk(temporary) for name in (*folders, *files)]
        return [*alive(sandbox_id), *(name for name in found if name.startswith(sandbox_id))]

    deadline = time.monotonic() + 5
    while (left := kept()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == []
