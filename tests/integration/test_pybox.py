"""The traps of pybox: its kills, its mounts, its root, its pulls, and what a killed launcher leaves."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from metaflow_extensions.sandbox.backends.interface import Command, Mount, Process, Sandbox, SandboxSpec
from metaflow_extensions.sandbox.backends.local_processes import children
from metaflow_extensions.sandbox.backends.pybox.backend import PyboxBackend
from metaflow_extensions.sandbox.backends.pybox.program import CHOICE
from metaflow_extensions.sandbox.errors import SandboxLost, StartFailed, UnsupportedOption
from metaflow_extensions.sandbox.testing.parts import launcher
from metaflow_extensions.sandbox.testing.parts.leaks import command_lines

from .images import tree, why_no_images
from .pybox import settings, why_no_pybox
from .waiting import until

if reason := why_no_pybox() or why_no_images():
    # Of the whole file: no machine is required to have pybox, which is in no package registry.
    pytest.skip(reason, allow_module_level=True)

GONE_WITHIN = 5.0  # seconds
SLEEP = "import os, time; os.write(1, b'up'); time.sleep(600)"
LOOK = """
import ctypes, json, os, socket, stat
status = dict(line.rstrip("\\n").split(":\\t", 1) for line in open("/proc/self/status") if ":\\t" in line)
def refused(action, *arguments):
    try:
        action(*arguments)
    except OSError:
        return True
    return False
def can_write(place):
    try:
        open(os.path.join(place, "mine"), "w").close()
        os.unlink(os.path.join(place, "mine"))
        return True
    except OSError:
        return False
libc = ctypes.CDLL(None, use_errno=True)
writable, settings, secret = [], [], []
for place, _, files in os.walk("/"):
    if place.startswith("/proc"):
        if not place[6:7].isdigit():  # processes, here its own alone
            paths = [os.path.join(place, name) for name in files]
            settings += [path for path in paths if os.path.isfile(path) and os.access(path, os.W_OK)]
    elif can_write(place):
        writable.append(place)
for name in os.listdir("/proc"):
    found = os.lstat("/proc/" + name)
    if stat.S_ISREG(found.st_mode) and not found.st_mode & 0o004:
        secret.append(name)
with socket.socket() as server:
    server.bind(("127.0.0.1", 0))
    server.listen()
    talks = not refused(lambda: socket.create_connection(server.getsockname(), 5).close())
print(json.dumps({
    "status": status,
    "writable": writable,
    "settings": settings,
    "secret": secret,
    "sys": os.listdir("/sys"),
    # To what they are: a wall that is not there must not cost the host its devices.
    "modes": [refused(os.chmod, "/dev/" + name, 0o666) for name in ("null", "zero", "urandom")],
    "calls": [libc.unshare(1 << 28), libc.mount(b"x", b"/tmp", b"tmpfs", 0, None), libc.umount2(b"/proc", 2)],
    "first": [refused(open, "/proc/1/" + name) for name in ("fd/0", "mem", "environ")],
    "talks": talks,
}))
"""


@pytest.fixture(autouse=True)
def pybox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The program of the tests, and a temporary directory that must be empty of sandboxes in the end."""
    for name, value in settings(tmp_path).items():
        monkeypatch.setenv(name, value)
    with tempfile.TemporaryDirectory(prefix="sbx") as name:
        for variable in ("TMPDIR", "XDG_RUNTIME_DIR"):
            monkeypatch.setenv(variable, name)
        monkeypatch.setattr(tempfile, "tempdir", name)
        yield Path(os.environ[CHOICE])
        assert list(Path(name).glob("metaflow-sandbox/pybox/sbx-*")) == []


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """An open one."""
    opened = PyboxBackend().open(SandboxSpec(image=str(tree())))
    yield opened
    opened.close()


def python(code: str, *arguments: str, **changes: Any) -> Command:
    """A command that runs Python code."""
    return Command(["python3", "-I", "-S", "-c", code, *arguments], **changes)


def result(process: Process) -> tuple[int, bytes]:
    """How it ended, and everything that it wrote."""
    written = b"".join(chunk.data for chunk in process.output())
    return process.wait(), written


def test_root_inside_has_no_power(sandbox: Sandbox) -> None:
    """pybox's command is the host's root, may write to /proc/sys and change the host's own /dev/null."""
    code, written = result(sandbox.start(python(LOOK)))
    assert code == 0, written
    seen = json.loads(written)
    assert {seen["status"][f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
    assert (seen["status"]["NoNewPrivs"], seen["status"]["Seccomp"]) == ("1", "2")
    places = ["/dev/shm", "/sandbox", "/tmp", "/var/tmp"]
    assert [place for place in seen["writable"] if not place.startswith(tuple(places))] == []
    assert (seen["settings"], seen["secret"], seen["sys"]) == ([], [], [])
    assert (seen["modes"], seen["calls"], seen["first"]) == ([True] * 3, [-1] * 3, [True] * 3)
    assert seen["talks"]


def test_first_process_can_not_be_ended_from_inside(sandbox: Sandbox) -> None:
    """A command that ends or stops its first program would say how it ended itself, or never."""
    code = """
import os, signal
for number in range(1, 65):
    if number not in (32, 33):
        os.kill(1, number)
os._exit(7)
"""
    assert result(sandbox.start(python(code))) == (7, b"")


@pytest.mark.parametrize("end", ["kill", "close", "destroy"])
def test_the_workload_itself_ends(sandbox: Sandbox, end: str) -> None:
    """pybox's own stop, and killing pybox, leave the workload running."""
    mark = secrets.token_hex(16)
    code = "import os, time\nif os.fork() == 0: os.setsid()\nos.write(1, b'up')\ntime.sleep(600)"
    process = sandbox.start(python(code, mark))
    assert next(iter(process.output()))
    assert mark in command_lines()
    {"kill": process.kill, "close": sandbox.close, "destroy": lambda: PyboxBackend().destroy(sandbox.id)}[
        end
    ]()
    until(lambda: mark not in command_lines(), within=GONE_WITHIN)
    assert "metaflow_pybox" not in Path("/proc/self/mounts").read_text()


@pytest.mark.parametrize("moment", ["runs", "starts", "pulls"])
def test_killed_launcher_leaves_nothing(pybox: Path, tmp_path: Path, moment: str) -> None:
    """A launcher's SIGKILL, at whatever moment, must end its sandbox and all that pybox did for it."""
    mark = f"60{secrets.randbelow(10**9):09}"  # seconds, to be found among the command lines
    if moment != "runs":
        stuck = {"starts": "run", "pulls": "pull"}[moment]
        pybox.with_name("stuck").write_text(
            f'#!/bin/sh\n[ "$1" = {stuck} ] && exec sleep {mark}\nexec {pybox} "$@"\n'
        )
        pybox.with_name("stuck").chmod(0o755)
    program = pybox if moment == "runs" else pybox.with_name("stuck")
    argv = ["python3", "-I", "-S", "-c", SLEEP, mark]
    request = {
        "backend": "pybox",
        "spec": {"image": str(tree()), "python": None},
        "argv": argv,
    }
    env = {**os.environ, CHOICE: str(program), "PYTHONPATH": os.pathsep.join(sys.path)}
    state = Path(tempfile.gettempdir(), "metaflow-sandbox", "pybox")
    with subprocess.Popen([sys.executable, launcher.__file__, json.dumps(request)], env=env) as other:
        started = (
            (lambda: mark in _others(other.pid)) if moment != "runs" else (lambda: _written(state, mark))
        )
        until(started, within=GONE_WITHIN)
        other.send_signal(signal.SIGKILL)
    until(lambda: mark not in command_lines(), within=GONE_WITHIN)
    until(lambda: list(state.glob("sbx-*")) == [], within=GONE_WITHIN)
    assert str(state) not in Path("/proc/self/mounts").read_text()


def _others(pid: int) -> str:
    """All command lines but that of one process."""
    own = Path(f"/proc/{pid}/cmdline").read_bytes().decode()
    return command_lines().replace(own, "")


def _written(state: Path, mark: str) -> bool:
    """Whether the workload itself runs, inside."""
    return f"time.sleep(600)\0{mark}" in command_lines() and any(state.glob("sbx-*/run0.log"))


def test_pybox_that_is_killed_is_a_lost_sandbox(sandbox: Sandbox) -> None:
    """User code ran: taken for a failed start, it would be run a second time."""
    process = sandbox.start(python(SLEEP))
    assert next(iter(process.output()))
    (pybox,) = [pid for own in children(os.getpid()) for pid in children(own) if _is_run(pid)]
    os.kill(pybox, signal.SIGKILL)
    with pytest.raises(SandboxLost):
        process.wait()


def _is_run(pid: int) -> bool:
    return b"--image=" in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_env_file_where_the_launcher_is_has_no_effect(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pybox reads a .env in its working directory, and crashes on what it doesn't know."""
    (tmp_path / ".env").write_text("UNKNOWN=1\nPYBOX_ROOT=/nonexistent\n")
    monkeypatch.chdir(tmp_path)
    assert result(sandbox.start(python("print('ran')"))) == (0, b"ran\n")


@pytest.mark.parametrize(
    "changes",
    [
        {"network": "host"},
        {"network": ("example.org",)},
        {"mounts": [Mount(Path("/tmp"), PurePosixPath("/mnt/x"))]},
        {"options": {"volumes": ["/:/host"]}},
        {"gpu": 1},
        {"image": ""},
    ],
    ids=str,
)
def test_what_pybox_ignores_is_refused(pybox: Path, changes: dict[str, Any]) -> None:
    """pybox takes -v and --network, and does something else."""
    pybox.write_text("#!/bin/sh\nexit 99\n")  # nothing may come as far as this
    with pytest.raises(UnsupportedOption):
        PyboxBackend().open(SandboxSpec(**{"image": str(tree()), **changes}))


def test_missing_image_is_refused_and_named() -> None:
    """A name that is wrong stays wrong, however often it is tried."""
    with pytest.raises(UnsupportedOption, match="no-such-image:1"):
        PyboxBackend().open(SandboxSpec(image="no-such-image:1"))


def test_image_without_python_does_not_start(tmp_path: Path) -> None:
    """An image that can't run the first program has run nothing of the user's."""
    (tmp_path / "empty").mkdir()
    sandbox = PyboxBackend().open(SandboxSpec(image=str(tmp_path / "empty")))
    with pytest.raises(StartFailed, match="python3"):
        sandbox.start(python(""))
    sandbox.close()


def test_file_that_does_not_fit_does_not_start(tmp_path: Path) -> None:
    """A file cut short would be computed with."""
    (tmp_path / "large").write_bytes(b"x" * (3 << 20))
    sandbox = PyboxBackend().open(SandboxSpec(image=str(tree()), disk=2))
    sandbox.put(tmp_path / "large", PurePosixPath("/tmp/large"))
    with pytest.raises(StartFailed, match="No space left"):
        sandbox.start(python("print('ran')"))
    sandbox.close()


def test_image_is_pulled_once(pybox: Path, tmp_path: Path) -> None:
    """Two first pulls of one image at once break each other's."""
    log, counting = tmp_path / "log", pybox.with_name("counting")
    counting.write_text(f'#!/bin/sh\necho "$1" >>{log}\nexec {pybox} "$@"\n')
    counting.chmod(0o755)
    told: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CHOICE, str(counting))

        def opened() -> None:
            PyboxBackend().open(SandboxSpec(image=str(tree()), tell=told.append)).close()

        threads = [threading.Thread(target=opened) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert log.read_text().split() == ["pull"]
    assert len(told) == 2
