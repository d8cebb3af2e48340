"""Walls of the bubblewrap backend that take more than one probe: limits, lives, secrets, its own Python."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

from metaflow_extensions.sandbox.backends import python_env
from metaflow_extensions.sandbox.backends.bubblewrap import binary as bwrap_binary
from metaflow_extensions.sandbox.backends.bubblewrap.backend import BubblewrapBackend
from metaflow_extensions.sandbox.backends.interface import Command, Mount, SandboxSpec
from metaflow_extensions.sandbox.errors import BackendUnavailable, SandboxLost, StartFailed, UnsupportedOption
from metaflow_extensions.sandbox.guest import large_files

PYTHON = SandboxSpec(python=python_env.discover())
AS_ROOT = os.geteuid() == 0


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory of the host that every user may use."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


def run(
    code: str, *arguments: str, spec: SandboxSpec = PYTHON, env: dict[str, str] | None = None
) -> tuple[int, str]:
    """Exit code and output of Python code in a sandbox of its own."""
    sandbox = BubblewrapBackend().open(spec)
    try:
        argv = [sys.executable, "-I", "-c", textwrap.dedent(code), *arguments]
        process = sandbox.start(Command(argv, env=env or {}))
        said = b"".join(chunk.data for chunk in process.output()).decode(errors="replace")
        return process.wait(), said
    finally:
        sandbox.close()


def command_lines() -> str:
    """All command lines of the host."""
    texts = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            texts.append(file.read_text(errors="replace"))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return "\n".join(texts)


def test_fork_bomb_is_limited_by_default() -> None:
    """A step that forks for ever must run out of processes before the host does."""
    code = """
    import os, signal
    count = 0
    try:
        while count < 5000:
            if os.fork() == 0:
                signal.pause()
            count += 1
    except OSError:
        pass
    print(count)
    """
    code_, said = run(code)
    assert code_ == 0
    assert 100 < int(said) <= 1024


def test_processes_of_two_sandboxes_are_counted_apart() -> None:
    """A neighbour at its limit must not keep others from starting processes."""
    backend, spec = BubblewrapBackend(), SandboxSpec(processes=20)
    full, other = backend.open(spec), backend.open(spec)
    try:
        sleepers = full.start(
            Command(
                ["sh", "-c", "for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do sleep 60 & done; echo; wait"]
            )
        )
        next(iter(sleepers.output()))
        process = other.start(
            Command(["sh", "-c", "for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do sleep 0.1 & done; wait"])
        )
        assert (list(process.output()), process.wait()) == ([], 0)
    finally:
        full.close()
        other.close()


def test_writable_space_is_one_budget() -> None:
    """Limits for each directory add up to a multiple of what was asked for."""
    code = """
    import os
    total = 0
    for place in (os.getcwd(), os.environ["HOME"], "/tmp", "/var/tmp"):
        try:
            with open(place + "/fill", "wb", buffering=0) as file:
                for _ in range(64):
                    total += file.write(b"x" * (1 << 20))
        except OSError:
            pass
    print(total >> 20)
    """
    assert run(code, spec=SandboxSpec(python=PYTHON.python, disk=16)) == (0, "16\n")


FULL = """
import glob, io
os.environ[VARIABLE] = "yes"
for size in (6 << 20, 20 << 20):
    with as_file(io.BytesIO(bytes(size))) as path:
        print(path is not None, *[os.stat(place).st_size >> 20 for place in glob.glob("/tmp/metaflow-*")])
    print(glob.glob("/tmp/metaflow-*"))
"""


def test_no_room_for_a_large_file() -> None:
    """Guards an artifact that would go as a file against a disk that is full: nothing is left of its copy."""
    code = Path(large_files.__file__).read_text() + FULL
    assert run(code, spec=SandboxSpec(python=PYTHON.python, disk=16)) == (0, "True 6\n[]\nFalse\n[]\n")


def test_shared_memory_is_limited() -> None:
    """/dev/shm is memory of the host."""
    code = """
    total = 0
    try:
        with open("/dev/shm/fill", "wb", buffering=0) as file:
            for _ in range(2000):
                total += file.write(b"x" * (1 << 20))
    except OSError:
        pass
    print(total >> 20)
    """
    assert run(code) == (0, "64\n")


def test_one_file_in_a_writable_mount_is_limited(place: Path) -> None:
    """A mount is outside the sandbox's own space; a single file must not fill the host's disk."""
    code = """
    import signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with open("/mnt/out/fill", "wb", buffering=0) as file:
            for _ in range(64):
                file.write(b"x" * (1 << 20))
        print("filled")
    except OSError as error:
        print("stopped")
    """
    spec = SandboxSpec(
        python=PYTHON.python, disk=8, mounts=[Mount(place, PurePosixPath("/mnt/out"), read_only=False)]
    )
    assert run(code, spec=spec) == (0, "stopped\n")
    assert (place / "fill").stat().st_size <= 9 << 20


def test_shared_memory_does_not_cross(place: Path) -> None:
    """Two sandboxes that share /dev/shm, abstract sockets or System V memory can talk to each other."""
    name = secrets.token_hex(8)
    backend = BubblewrapBackend()
    first = backend.open(PYTHON)
    try:
        code = """
        import socket, sys
        open("/dev/shm/" + sys.argv[1], "w").close()
        server = socket.socket(socket.AF_UNIX)
        server.bind(chr(0) + sys.argv[1])
        server.listen()
        print("up", flush=True)
        input()
        """
        argv = [sys.executable, "-I", "-c", textwrap.dedent(code), name]
        process = first.start(Command(argv, stdin=True))
        next(iter(process.output()))
        look = """
        import os, socket, sys
        print(os.path.exists("/dev/shm/" + sys.argv[1]))
        print(socket.socket(socket.AF_UNIX).connect_ex(chr(0) + sys.argv[1]) == 0)
        """
        assert run(look, name) == (0, "False\nFalse\n")
    finally:
        first.close()


def test_environment_is_not_on_the_command_line_nor_in_the_environment_of_bwrap() -> None:
    """Whoever may look at bwrap from outside must not find a step's secrets there."""
    secret = secrets.token_hex(16)
    sandbox = BubblewrapBackend().open(SandboxSpec())
    try:
        process = sandbox.start(Command(["sh", "-c", "echo $TOKEN; sleep 60"], env={"TOKEN": secret}))
        assert next(iter(process.output())).data.decode().strip() == secret
        assert secret not in command_lines()
        assert Path(f"/proc/{process._launched.process.pid}/environ").read_bytes() == b""
    finally:
        sandbox.close()


def test_nothing_outlives_a_killed_launcher() -> None:
    """SIGKILL can't be handled: what the launcher started must end by the kernel's doing."""
    mark = secrets.token_hex(16)
    code = """
    import sys, time
    from metaflow_extensions.sandbox.backends.bubblewrap.backend import BubblewrapBackend
    from metaflow_extensions.sandbox.backends.interface import Command, SandboxSpec
    mark = sys.argv[1]
    sandbox = BubblewrapBackend().open(SandboxSpec(labels={"mark": mark}))
    deaf = "trap '' TERM HUP INT; sleep 600; : " + mark
    hide = 'setsid sh -c "$0" >/dev/null 2>&1 & echo up; sleep 600; : ' + mark
    process = sandbox.start(Command(["sh", "-c", hide, deaf]))
    next(iter(process.output()))
    print("up", flush=True)
    time.sleep(600)
    """
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    argv = [sys.executable, "-c", textwrap.dedent(code), mark]
    launcher = subprocess.Popen(argv, env=env, stdout=subprocess.PIPE)
    assert launcher.stdout is not None
    assert launcher.stdout.readline() == b"up\n"
    assert mark in command_lines()
    launcher.kill()
    launcher.wait()
    launcher.stdout.close()
    _assert_gone(mark)


def test_launcher_killed_while_it_starts_commands_leaves_nothing() -> None:
    """bwrap itself does not notice, in the milliseconds that a set-up takes: half of these would stay."""
    code = """
    import sys
    from metaflow_extensions.sandbox.backends.bubblewrap.backend import BubblewrapBackend
    from metaflow_extensions.sandbox.backends.interface import Command, SandboxSpec
    sandbox = BubblewrapBackend().open(SandboxSpec(labels={"mark": sys.argv[1]}))
    print("up", flush=True)
    while True:
        sandbox.start(Command(["sleep", "600", sys.argv[1]]))
    """
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    for pause in range(12):
        mark = secrets.token_hex(16)
        argv = [sys.executable, "-c", textwrap.dedent(code), mark]
        with subprocess.Popen(argv, env=env, stdout=subprocess.PIPE) as launcher:
            assert launcher.stdout is not None
            assert launcher.stdout.readline() == b"up\n"
            time.sleep(pause / 1000)
            launcher.kill()
        _assert_gone(mark)


def _assert_gone(mark: str) -> None:
    """Fail unless processes and listed sandboxes of that mark go, and stay gone, in a few seconds."""
    backend = BubblewrapBackend()
    deadline, quiet = time.monotonic() + 10, 0
    while quiet < 3 and time.monotonic() < deadline:
        here = mark in command_lines() or list(backend.list({"mark": mark}))
        quiet = 0 if here else quiet + 1
        time.sleep(0.1)
    assert mark not in command_lines()
    assert list(backend.list({"mark": mark})) == []


def test_command_survives_the_thread_that_started_it() -> None:
    """The kernel's parent-death signal watches a thread: one of a pool may end first."""
    sandbox = BubblewrapBackend().open(SandboxSpec())
    started = []
    thread = threading.Thread(
        target=lambda: started.append(sandbox.start(Command(["sh", "-c", "sleep 0.3; exit 7"])))
    )
    thread.start()
    thread.join()
    try:
        assert started[0].wait() == 7
    finally:
        sandbox.close()


def test_lifetime_ends_the_sandbox() -> None:
    """A lifetime that nobody enforces leaves forgotten sandboxes."""
    sandbox = BubblewrapBackend().open(SandboxSpec(lifetime=0.2))
    try:
        process = sandbox.start(Command(["sleep", "600"]))
        with pytest.raises(SandboxLost, match="lifetime"):
            process.wait()
        with pytest.raises(SandboxLost, match="lifetime"):
            sandbox.start(Command(["true"]))
    finally:
        sandbox.close()


def test_setup_failure_is_no_exit_code(place: Path) -> None:
    """What bwrap says about its own failure must not pass for the command's."""
    (place / "gone").write_text("")
    (place / "gone").chmod(0o644)
    sandbox = BubblewrapBackend().open(
        SandboxSpec(mounts=[Mount(place / "gone", PurePosixPath("/mnt/gone"))])
    )
    (place / "gone").unlink()
    try:
        with pytest.raises(StartFailed, match=r"could not set up.*gone"):
            sandbox.start(Command(["true"]))
    finally:
        sandbox.close()


def test_check_explains_a_bwrap_that_fails(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What works on one machine is forbidden on the next: the first run must say why, and leave nothing."""
    broken = place / "bwrap"
    broken.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv(bwrap_binary.CHOICE, str(broken))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(place))
    with pytest.raises(BackendUnavailable, match="No permissions to create new namespace"):
        BubblewrapBackend().check()
    assert list((place / "metaflow-sandbox").iterdir()) == []


def test_interpreter_of_a_script_that_is_missing_is_no_success(place: Path) -> None:
    """A program that is there and can't be executed fails behind every check that is made before."""
    script = place / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    sandbox = BubblewrapBackend().open(SandboxSpec(mounts=[Mount(script, PurePosixPath("/mnt/script"))]))
    try:
        process = sandbox.start(Command(["/mnt/script"]))
        try:
            assert process.wait() in (126, 127)
        except StartFailed as error:
            assert "could not execute" in str(error)
    finally:
        sandbox.close()


def test_descriptors_are_given_back() -> None:
    """A supervisor that runs thousands of tasks must not run out of descriptors."""

    run("pass")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        run("print('x' * 100000)")
        with pytest.raises(StartFailed):
            sandbox = BubblewrapBackend().open(SandboxSpec())
            try:
                sandbox.start(Command(["no-such-program"]))
            finally:
                sandbox.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_relay_socket_is_reached(place: Path) -> None:
    """A socket in a mounted file is the way to the relay, with the network cut."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(place / "relay"))
    server.listen()
    (place / "relay").chmod(0o666)
    code = """
    import socket
    peer = socket.socket(socket.AF_UNIX)
    peer.connect("/mnt/relay")
    peer.sendall(b"hello")
    """
    spec = SandboxSpec(python=PYTHON.python, mounts=[Mount(place / "relay", PurePosixPath("/mnt/relay"))])
    with server:
        assert run(code, spec=spec) == (0, "")
        peer, _ = server.accept()
        with peer:
            assert peer.recv(5) == b"hello"


@pytest.mark.skipif(not AS_ROOT, reason="a normal user is the same user inside and outside")
@pytest.mark.parametrize(("read_only", "mode"), [(True, 0o700), (False, 0o755)])
def test_root_is_told_about_mounts_that_would_be_useless(place: Path, read_only: bool, mode: int) -> None:
    """Inside, root's sandbox is another user: a mount that it can't use fails late and unclearly."""
    place.chmod(mode)
    mount = Mount(place, PurePosixPath("/mnt/data"), read_only=read_only)
    with pytest.raises(UnsupportedOption, match=r"chmod o\+"):
        BubblewrapBackend().open(SandboxSpec(mounts=[mount]))


def test_environment_in_a_private_home_works(place: Path) -> None:
    """Interpreters live below /root and other closed directories, which nobody else can pass."""
    home = place / "home"
    home.mkdir(mode=0o700)
    (home / ".secret").write_text("of the host")
    environment = home / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    source = Path(python_env.__file__).parents[3]
    code = """
    import os, sys
    from pathlib import Path
    from metaflow_extensions.sandbox.backends import python_env
    from metaflow_extensions.sandbox.backends.bubblewrap.backend import BubblewrapBackend
    from metaflow_extensions.sandbox.backends.interface import Command, SandboxSpec
    found = python_env.discover(home=Path(sys.argv[1]))
    sandbox = BubblewrapBackend().open(SandboxSpec(python=found))
    look = "import json, os, sys; print(sys.prefix, os.listdir(sys.argv[1]), json.__name__)"
    process = sandbox.start(Command([sys.executable, "-c", look, sys.argv[1]]))
    sys.stdout.write(b"".join(chunk.data for chunk in process.output()).decode())
    process.wait()
    sandbox.close()
    """
    env = {**os.environ, "PYTHONPATH": str(source), bwrap_binary.CHOICE: str(bwrap_binary.find())}
    argv = [str(environment / "bin" / "python"), "-c", textwrap.dedent(code), str(home)]
    done = subprocess.run(argv, env=env, capture_output=True, text=True)
    assert (done.stderr, done.stdout) == ("", f"{environment} ['venv'] json\n")
