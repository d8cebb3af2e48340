"""Whose a sandbox is, by its labels."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from metaflow_extensions.sandbox.backends import owner
from metaflow_extensions.sandbox.backends.owner import State


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """Another process."""
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def test_own_sandboxes_run() -> None:
    """Guards against a cleanup that ends the sandboxes of a living process."""
    assert owner.state(owner.labels()) is State.RUNNING


def test_sandboxes_of_the_dead_are_orphans(sleeper: subprocess.Popen[bytes]) -> None:
    """Guards the moment of death: killed is dead, also before the parent has asked how it ended."""
    labels = {**owner.labels(), owner.PROCESS: owner.mark(sleeper.pid)}
    assert owner.state(labels) is State.RUNNING
    sleeper.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert owner.state(labels) is State.ORPHAN
    sleeper.wait()
    assert owner.state(labels) is State.ORPHAN


def test_a_pid_that_was_given_again() -> None:
    """Guards against orphans that are kept for ever by a stranger who has their maker's pid."""
    assert owner.state({**owner.labels(), owner.PROCESS: f"{os.getpid()}-1"}) is State.ORPHAN


@pytest.mark.parametrize("process", ["", "x-1", "-", "-5-1"])
def test_nonsense_is_no_living_process(process: str) -> None:
    """Guards against labels that a provider has shortened, taken for a process."""
    assert not owner.lives(process)


def test_other_machines_sandboxes_are_left_alone() -> None:
    """Guards against a cleanup that ends what runs on another machine with the same account."""
    assert owner.state({**owner.labels(), owner.HOST: "elsewhere-12345678"}) is State.ELSEWHERE
    assert owner.state({}) is State.UNKNOWN
    assert owner.state({owner.PROCESS: owner.mark(os.getpid())}) is State.UNKNOWN


def of_home(home: Path) -> str:
    """The name of this machine for a process with that home."""
    done = subprocess.run(
        [sys.executable, "-c", "from metaflow_extensions.sandbox.backends import owner; print(owner.host())"],
        env={**os.environ, "XDG_STATE_HOME": str(home), "TMPDIR": str(home.parent / "tmp")},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_a_machine_keeps_its_name(tmp_path: Path) -> None:
    """Guards against machines of one name, as containers have, that take each other's runs for dead."""
    (tmp_path / "tmp").mkdir()
    first = of_home(tmp_path / "one")
    assert of_home(tmp_path / "one") == first
    assert of_home(tmp_path / "two") != first
    unwritable = tmp_path / "file"
    unwritable.write_text("")
    third = of_home(unwritable)
    assert third == of_home(unwritable)
    assert third not in (first, "")
