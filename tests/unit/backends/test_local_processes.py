"""Ending processes: those that are meant, all of them, and no others."""

from __future__ import annotations

import os
import secrets
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from metaflow_extensions.sandbox.backends.bubblewrap.leftovers import END, name_of_bwrap
from metaflow_extensions.sandbox.backends.local_processes import end, end_named, start_time
from metaflow_extensions.sandbox.backends.local_state import LocalState
from metaflow_extensions.sandbox.backends.warden import Warden


@pytest.fixture
def name() -> str:
    """A name that no process has yet."""
    return f"bwrap-{secrets.token_hex(8)}"


def await_name(process: subprocess.Popen[bytes]) -> None:
    """The kernel lets the parent of a new program go on a moment before it shows the program's arguments."""
    while not Path(f"/proc/{process.pid}/cmdline").read_bytes():
        time.sleep(0.001)


@pytest.fixture
def named(name: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process of that name."""
    with subprocess.Popen([name, "600"], executable="/usr/bin/sleep") as process:
        await_name(process)
        yield process
        process.kill()


def test_process_is_known_by_its_start(named: subprocess.Popen[bytes]) -> None:
    """A pid alone may be another's by now."""
    end(named.pid, "1")
    assert named.poll() is None
    end(named.pid, start_time(named.pid))
    assert named.wait(10) == -9
    assert start_time(named.pid) == ""
    end(named.pid, "1")


def test_processes_are_found_by_their_own_name(name: str, named: subprocess.Popen[bytes]) -> None:
    """An argument that equals the name, or a longer name, is not the name."""
    with subprocess.Popen(["sh", "-c", "read _", name], stdin=subprocess.PIPE) as argument:
        with subprocess.Popen([name + "0", "600"], executable="/usr/bin/sleep") as longer:
            end_named(name)
            assert (named.wait(10), argument.poll(), longer.poll()) == (-9, None, None)
            longer.kill()
        argument.kill()


def test_what_was_not_remembered_is_destroyed_by_name(tmp_path: Path) -> None:
    """A launcher can be killed before it has written down what it started."""
    state = LocalState.create(tmp_path, {})
    with subprocess.Popen([name_of_bwrap(state.id), "600"], executable="/usr/bin/sleep") as process:
        await_name(process)
        state.destroy(name_of_bwrap(state.id))
        assert process.wait(10) == -9


def test_warden_destroys_what_was_left_open(tmp_path: Path) -> None:
    """What was closed is none of its business; what was not must go with its directory."""
    left, closed = LocalState.create(tmp_path, {}), LocalState.create(tmp_path, {})
    warden = Warden(END, str(tmp_path))
    for state in (left, closed):
        warden.watch(state.id)
    warden.forget(closed.id)
    process = warden._process
    assert process is not None
    assert process.stdin is not None
    # As when the launcher is gone.
    process.stdin.close()
    assert process.wait(60) == 0
    assert [state.id for state in LocalState.all(tmp_path)] == [closed.id]


def test_last_closed_sandbox_takes_the_warden_along(tmp_path: Path) -> None:
    """A process that stays behind every launcher adds up."""
    warden = Warden(END, str(tmp_path))
    for _ in range(2):
        warden.watch("sbx-00000001")
        process = warden._process
        assert process is not None
        warden.forget("sbx-00000001")
        assert process.returncode == -9
    warden.forget("sbx-00000001")


def test_warden_that_was_killed_is_replaced(tmp_path: Path) -> None:
    """The next sandbox must be watched, and those before it again."""
    first, second = LocalState.create(tmp_path, {}), LocalState.create(tmp_path, {})
    warden = Warden(END, str(tmp_path))
    warden.watch(first.id)
    killed = warden._process
    assert killed is not None
    os.kill(killed.pid, 9)
    killed.wait()
    warden.watch(second.id)
    process = warden._process
    assert process is not killed
    assert process is not None
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(60) == 0
    assert list(LocalState.all(tmp_path)) == []
