"""What waits for the supervisor and cleans up behind it, in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from metaflow_extensions.sandbox.supervisor.reaper import BACKENDS, clean

from ..relay.parts import WAIT, settle

# Forks a stand-in for the supervisor; the lifeline is standard input.
SCRIPT = """
import os, signal, sys, time
from metaflow_extensions.sandbox.supervisor import reaper
reaper.KNOWS_WITHIN, reaper.CLOSES_WITHIN = 0.3, 0.6
ours, theirs = os.pipe()
pid = os.fork()
if pid == 0:
    os.close(ours)
    def wait_for_the_end():
        while os.read(0, 1): pass
    {supervisor}
    os._exit(0)
os.close(theirs)
print(pid, flush=True)
reaper.reap(pid, ours, sys.argv[1])
"""
BACKEND = """
import pathlib
from metaflow_extensions.sandbox.backends.interface import SandboxInfo
DESTROYED = pathlib.Path(__file__).with_name("destroyed")
class Backend:
    features, isolation = frozenset(), None
    def check(self): ...
    def open(self, spec): ...
    def list(self, labels):
        return [SandboxInfo(f"{name}-{labels['supervisor']}", labels, 0.0) for name in ("a", "b")]
    def destroy(self, sandbox_id):
        with DESTROYED.open("a") as file:
            file.write(sandbox_id + "\\n")
"""


class Reaper:
    def __init__(self, place: Path, supervisor: str) -> None:
        self.directory = place / "run-1"
        self.directory.mkdir()
        (self.directory / "t1").mkdir()
        (self.directory / "t1" / "file").write_text("x")
        self.process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT.format(supervisor=supervisor), str(self.directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(place)},
        )
        assert self.process.stdout is not None
        self.supervisor = int(self.process.stdout.readline())

    def end_the_run(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def finish(self) -> None:
        assert self.process.wait(WAIT) == 0
        assert self.process.stdout is not None
        self.process.stdout.close()
        assert not self.directory.exists()
        assert not Path(f"/proc/{self.supervisor}").exists()


def test_a_backend_that_can_not_be_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    """Guards a run that went well against failing for a provider that does not answer at its end."""
    source = BACKEND.replace("return [", "raise BackendUnavailable('nobody is there'); return [")
    source = f"from metaflow_extensions.sandbox.errors import BackendUnavailable\n{source}"
    (tmp_path / "silent_backend.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    directory = tmp_path / "run-1"
    directory.mkdir()
    (directory / BACKENDS).write_text("silent_backend:Backend\n")
    clean(directory)
    assert not directory.exists()
    assert "nobody is there" in capfd.readouterr().err


def test_a_supervisor_that_ends(tmp_path: Path) -> None:
    """Guards against a run's directory that is left, and against an end that comes too early."""
    reaper = Reaper(tmp_path, "wait_for_the_end(); os.write(theirs, b'c'); time.sleep(0.1)")
    assert reaper.directory.exists()
    reaper.end_the_run()
    reaper.finish()


def test_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    """Guards against sandboxes and files that outlive a killed supervisor."""
    (tmp_path / "a_backend.py").write_text(BACKEND)
    reaper = Reaper(tmp_path, "time.sleep(60)")
    (reaper.directory / BACKENDS).write_text("a_backend:Backend\n")
    os.kill(reaper.supervisor, signal.SIGKILL)
    reaper.finish()
    assert (tmp_path / "destroyed").read_text() == "a-run-1\nb-run-1\n"


@pytest.mark.parametrize(
    "supervisor",
    [
        "time.sleep(60)",
        "os.kill(os.getpid(), signal.SIGSTOP)",
        "wait_for_the_end(); os.write(theirs, b'c'); time.sleep(60)",
    ],
)
def test_a_supervisor_that_hangs(tmp_path: Path, supervisor: str) -> None:
    """Guards against a supervisor that outlives its run, silent or stuck while it closes."""
    reaper = Reaper(tmp_path, supervisor)
    reaper.end_the_run()
    reaper.finish()


def test_signals_do_not_take_the_reaper(tmp_path: Path) -> None:
    """Guards against Ctrl-C ending what cleans up."""
    reaper = Reaper(tmp_path, "wait_for_the_end()")
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    settle(lambda: all(ignored(reaper.process.pid) >> (number - 1) & 1 for number in numbers))
    for number in numbers:
        reaper.process.send_signal(number)
    reaper.end_the_run()
    reaper.finish()


def ignored(pid: int) -> int:
    """The signals that a process ignores, a bit each."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("SigIgn:")).split()[1], 16)


def test_cleaning_twice(tmp_path: Path) -> None:
    """Guards against an error where another has cleaned up."""
    (tmp_path / "run").mkdir()
    clean(tmp_path / "run")
    clean(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
