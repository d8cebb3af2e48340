"""What is remembered about sandboxes on disk: private, found by every process, never the wrong one."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from metaflow_extensions.sandbox.backends.local_state import LocalState, base_directory
from metaflow_extensions.sandbox.errors import BackendUnavailable, SandboxLost


@pytest.fixture
def sleeper() -> subprocess.Popen[bytes]:
    """A process that sleeps until it is killed."""
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])


def _alive(process: subprocess.Popen[bytes]) -> bool:
    return process.poll() is None


def test_base_is_private(tmp_path: Path) -> None:
    """Labels and put files are the user's own."""
    base = base_directory({"XDG_RUNTIME_DIR": str(tmp_path)})
    assert base == tmp_path / "metaflow-sandbox"
    assert stat.S_IMODE(base.stat().st_mode) == 0o700
    assert base_directory({"XDG_RUNTIME_DIR": str(tmp_path)}) == base


def test_runtime_directory_of_another_user_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After su the variable still names the other user's directory."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for elsewhere in (str(tmp_path / "absent"), "/proc/1/fd/0", ""):
        assert base_directory({"XDG_RUNTIME_DIR": elsewhere}) == tmp_path / f"metaflow-sandbox-{os.geteuid()}"


@pytest.mark.parametrize("kind", ["open", "link", "file"])
def test_base_that_another_user_prepared_is_refused(tmp_path: Path, kind: str) -> None:
    """In a shared /tmp anybody can make the directory first."""
    base = tmp_path / "metaflow-sandbox"
    if kind == "open":
        base.mkdir()
        base.chmod(0o755)
    elif kind == "link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        base.symlink_to(tmp_path / "elsewhere")
    else:
        base.write_text("")
        base.chmod(0o600)
    with pytest.raises(BackendUnavailable, match="must be a directory of uid"):
        base_directory({"XDG_RUNTIME_DIR": str(tmp_path)})


def test_sandboxes_are_found_with_their_labels(tmp_path: Path) -> None:
    """Cleaning up knows labels only."""
    state = LocalState.create(tmp_path, {"run": "1"})
    (tmp_path / "something else").mkdir()
    assert [(found.id, found.info()) for found in LocalState.all(tmp_path)] == [(state.id, state.info())]
    info = state.info()
    assert info is not None
    assert info.labels == {"run": "1"}


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "sbx-1234567", "sbx-12345678/../x", "sbx-ABCDEF12", "x\0y"]
)
def test_ids_are_never_paths(tmp_path: Path, name: str) -> None:
    """An id from a command line must not lead out of the base directory."""
    LocalState.create(tmp_path, {})
    assert LocalState.find(tmp_path, name) is None


def test_destroy_ends_processes_and_removes_all(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    """What is left behind runs on."""
    state = LocalState.create(tmp_path, {})
    state.record(sleeper.pid)
    found = LocalState.find(tmp_path, state.id)
    assert found is not None
    found.destroy()
    assert sleeper.wait(10) == -9
    assert list(tmp_path.iterdir()) == []
    found.destroy()


def test_reused_pid_is_not_killed(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    """After a crash the pid on disk may be somebody else's: its start time tells."""
    state = LocalState.create(tmp_path, {})
    (state.directory / "processes" / str(sleeper.pid)).write_text("1")
    state.destroy()
    try:
        assert _alive(sleeper)
    finally:
        sleeper.kill()
        sleeper.wait()


def test_ended_process_is_no_obstacle(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    """Destroying comes late more often than not."""
    state = LocalState.create(tmp_path, {})
    state.record(sleeper.pid)
    sleeper.kill()
    sleeper.wait()
    state.destroy()
    assert list(tmp_path.iterdir()) == []


def test_forgotten_process_is_not_killed(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    """A process that was waited for is none of the sandbox's."""
    state = LocalState.create(tmp_path, {})
    state.record(sleeper.pid)
    state.forget(sleeper.pid)
    state.forget(sleeper.pid)
    state.destroy()
    try:
        assert _alive(sleeper)
    finally:
        sleeper.kill()
        sleeper.wait()


def test_destroyed_sandbox_takes_nothing_more(tmp_path: Path) -> None:
    """A process recorded after the destruction would never be ended."""
    state = LocalState.create(tmp_path, {})
    state.destroy()
    assert not state.exists()
    with pytest.raises(SandboxLost, match="open a new one"):
        state.record(os.getpid())
    with pytest.raises(SandboxLost, match="open a new one"):
        state.keep_file(Path(__file__))


def test_files_are_copies(tmp_path: Path) -> None:
    """What is put is what it was then, and can be read by the uid inside."""
    base, source = tmp_path / "base", tmp_path / "source"
    base.mkdir()
    source.write_bytes(b"then")
    source.chmod(0o700)
    state = LocalState.create(base, {})
    copies = [state.keep_file(source) for _ in range(2)]
    source.write_bytes(b"now")
    assert [copy.read_bytes() for copy in copies] == [b"then", b"then"]
    assert stat.S_IMODE(copies[0].stat().st_mode) == 0o755


def test_destroying_at_once_leaves_nothing(tmp_path: Path) -> None:
    """Two cleanings that take files from under each other must not both give up half way."""
    for _ in range(30):
        state = LocalState.create(tmp_path, {})
        for _ in range(20):
            state.keep_file(Path(__file__))
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(LocalState.destroy, [state] * 4))
        assert list(tmp_path.iterdir()) == []


def test_a_launcher_killed_while_it_writes_keeps_nobody_from_cleaning_up(tmp_path: Path) -> None:
    """Guards against half a file, at which whoever cleans up would stop."""
    state = LocalState.create(tmp_path, {})
    script = (
        "import os, pathlib, sys\n"
        "from metaflow_extensions.sandbox.backends.local_state import LocalState\n"
        "write = pathlib.Path.write_text\n"
        "def half(path, text): write(path, text[: len(text) // 2]); os._exit(9)\n"
        "pathlib.Path.write_text = half\n"
        "LocalState.find(pathlib.Path(sys.argv[1]), sys.argv[2]).keep_groups([pathlib.Path('/sys/x')])\n"
    )
    assert subprocess.run([sys.executable, "-c", script, tmp_path, state.id], check=False).returncode == 9
    state.destroy()
    assert not state.directory.exists()
