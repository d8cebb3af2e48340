"""The supervisor's process, as the scheduler starts it, with a backend that runs nothing."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from metaflow_extensions.sandbox.backends.interface import SandboxSpec
from metaflow_extensions.sandbox.plugins.supervisor_link import SupervisorLink
from metaflow_extensions.sandbox.relay.policy import TaskIdentity
from metaflow_extensions.sandbox.supervisor.protocol import RunSettings, TaskSettings
from metaflow_extensions.sandbox.supervisor.shim import request

from ..relay.parts import WAIT, settle

SCRIPTED = "metaflow_extensions.sandbox.testing.scripted:ScriptedBackend"


class Run:
    """A run of scripted sandboxes."""

    def __init__(self, place: Path, monkeypatch: pytest.MonkeyPatch, script: dict[str, Any]) -> None:
        (place / "script.json").write_text(json.dumps({"pretend": ["MOUNT", "NETWORK_OFF"], **script}))
        monkeypatch.setenv("METAFLOW_SANDBOX_SCRIPT", str(place / "script.json"))
        self.place = place
        self.code: Any = lambda target: target.mkdir()
        self.link = SupervisorLink(self.settings, lambda target: self.code(target))

    def settings(self, directory: str, control: int) -> RunSettings:
        self.directory = Path(directory)
        root = str(self.place / ".metaflow")
        paths = [path for path in sys.path if path]
        return RunSettings(
            "Flow",
            "1",
            "flow.py",
            directory,
            control,
            paths,
            "local",
            root,
            f"local@{root}",
            max_infra_retries=1,
        )

    def task(self, number: int, **changes: Any) -> subprocess.Popen[bytes]:
        """Start a task's shim."""
        settings = TaskSettings(
            TaskIdentity("Flow", "1", "start", str(number), 0), SCRIPTED, SandboxSpec(), {}, [], {}
        )
        entrypoint = self.link.entrypoint(replace(settings, **changes))
        return subprocess.Popen(
            [*entrypoint, sys.executable, "-c", "pass"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    runs: list[Run] = []

    def make(**script: Any) -> Run:
        runs.append(Run(tmp_path, monkeypatch, script))
        return runs[-1]

    yield make
    for run in runs:
        run.link.close()
        assert not run.directory.exists()


def finish(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    out, err = process.communicate(timeout=WAIT)
    return process.returncode, (out + err).decode()


def test_tasks_at_once(start: Any) -> None:
    """Guards against tasks that get each other's outcome or output."""
    run = start(outcome={"exit_code": 7, "stdout": "from the sandbox\n", "seconds": 0.1})
    for process in [run.task(number) for number in range(8)]:
        code, said = finish(process)
        assert code == 7
        assert "from the sandbox\n" in said
        assert f"[sandbox] {SCRIPTED} scripted-" in said


def test_a_backend_that_fails_first(start: Any) -> None:
    """Guards against tries that are not counted per task."""
    run = start(
        outcome={"exit_code": 7},
        open_failures=[{"error": "StartFailed", "message": "no room"}],
    )
    code, said = finish(run.task(1))
    assert code == 7
    assert "StartFailed: no room" in said


def test_code_that_cannot_be_copied(start: Any) -> None:
    """Guards against tasks that wait for code that never comes."""

    def fail(target: Path) -> None:
        raise ValueError("The flow's code is over 256 MiB")

    run = start(outcome={"exit_code": 7})
    run.link.close()
    run.code = fail
    run.link._start()
    code, said = finish(run.task(1))
    assert code == 1
    assert "The flow's code is over 256 MiB" in said


def test_a_backend_that_does_not_exist(start: Any) -> None:
    """Guards against a shim that is not answered."""
    run = start()
    code, said = finish(run.task(1, backend="nonsense"))
    assert code == 1
    assert "UnknownBackend: no sandbox backend 'nonsense'" in said


def test_the_end_of_the_run(start: Any, tmp_path: Path) -> None:
    """Guards against tasks, sandboxes and files that outlive the run."""
    run = start(outcome={"seconds": 60}, events=str(tmp_path / "events"))
    processes = [run.task(number) for number in range(3)]
    settle(
        lambda: (tmp_path / "events").exists() and (tmp_path / "events").read_text().count('"started"') == 3
    )
    run.link.close()
    for process in processes:
        assert finish(process)[0] != 0
    assert (tmp_path / "events").read_text().count('"closed"') == 3
    assert not run.directory.exists()


def test_a_supervisor_that_was_killed(start: Any) -> None:
    """Guards against a run whose further tasks fail because the supervisor was killed once."""
    run = start(outcome={"exit_code": 7})
    assert finish(run.task(1))[0] == 7
    directory = run.directory
    supervisor = int(Path(f"/proc/{run.link._process.pid}/task/{run.link._process.pid}/children").read_text())
    os.kill(supervisor, 9)
    settle(lambda: not directory.exists())
    assert finish(run.task(2))[0] == 7
    assert run.directory != directory


def test_what_is_no_shim(start: Any) -> None:
    """Guards against a stranger's bytes on the control socket that end the supervisor."""
    import socket

    run = start(outcome={"exit_code": 7})
    for data in (b"", b"\0", b"\xff" * 100):
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.connect(str(run.directory / "control"))
            stranger.sendall(data)
    assert finish(run.task(1))[0] == 7


def test_the_directory_is_private(start: Any) -> None:
    """Guards against other users who speak to the supervisor or read its files."""
    run = start()
    assert run.directory.stat().st_mode & 0o777 == 0o700


# --- visitors ---------------------------------------------------------------------------------


def visitor(run: Run, what: str, *words: str) -> bytes:
    """All that a visitor is sent."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(WAIT)
        connection.connect(str(run.directory / "control"))
        request(connection, what, list(words))
        answer = b""
        while data := connection.recv(4096):
            answer += data
    return answer


@pytest.mark.parametrize(
    "asked",
    [
        ("visit:logs", "sbx-00000000"),
        ("visit:shell", "sbx-00000000", "dumb", "24", "80"),
    ],
)
def test_a_visitor_for_nothing(start: Any, asked: tuple[str, ...]) -> None:
    """Guards against a command that hangs because the sandbox has gone since it was listed."""
    run = start()
    assert json.loads(visitor(run, *asked)) == {"error": "the sandbox sbx-00000000 has just gone"}


@pytest.mark.parametrize("asked", [("visit:logs",), ("visit:shell",), ("visit:other", "x")])
def test_a_visitor_with_nonsense(start: Any, asked: tuple[str, ...]) -> None:
    """Guards a run against who knocks with another version's words."""
    run = start(processes=[{"exit_code": 0}])
    if asked[0] != "visit:other":
        assert visitor(run, *asked) == b""
    process = run.task(1)
    assert finish(process)[0] == 1
