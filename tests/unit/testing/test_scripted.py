"""The scripted backend does what its script says, in this process and when driven from another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

from metaflow_extensions.sandbox.backends.interface import (
    Command,
    Feature,
    Mount,
    Process,
    SandboxSpec,
)
from metaflow_extensions.sandbox.errors import (
    QuotaExceeded,
    SandboxLost,
    StartFailed,
    UnsupportedOption,
)
from metaflow_extensions.sandbox.testing.script import VARIABLE, Outcome, Script
from metaflow_extensions.sandbox.testing.scripted import ScriptedBackend, ScriptedSandbox

SPEC = SandboxSpec(network="host")
SLEEP = Command([sys.executable, "-c", "import time; time.sleep(600)"])


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the records of these sandboxes apart from all others."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@pytest.fixture
def opened() -> Iterator[list[ScriptedSandbox]]:
    """Sandboxes to close at the end."""
    sandboxes: list[ScriptedSandbox] = []
    yield sandboxes
    for sandbox in sandboxes:
        sandbox.close()


def start(backend: ScriptedBackend, opened: list[ScriptedSandbox], command: Command = SLEEP) -> Process:
    """Start a command in a sandbox of its own."""
    opened.append(backend.open(SPEC))
    return opened[-1].start(command)


def test_failures_of_open_come_in_order_and_end() -> None:
    """A test of retries needs failures that stop, with their details kept."""
    full = QuotaExceeded("full", retry_after=1.5)
    backend = ScriptedBackend(Script(open_failures=[full, None, StartFailed("no room")]))
    with pytest.raises(QuotaExceeded) as refused:
        backend.open(SPEC)
    assert refused.value.retry_after == 1.5
    backend.open(SPEC).close()
    with pytest.raises(StartFailed, match="no room"):
        backend.open(SPEC)
    backend.open(SPEC).close()
    kinds = ["open failed", "opened", "closed", "open failed", "opened", "closed"]
    assert [event["event"] for event in backend.events] == kinds


def test_failures_of_start_leave_the_sandbox(opened: list[ScriptedSandbox]) -> None:
    """A command that couldn't be started may be started again."""
    backend = ScriptedBackend(Script(start_failures=[StartFailed("not yet")], outcome=Outcome(3)))
    opened.append(backend.open(SPEC))
    with pytest.raises(StartFailed, match="not yet"):
        opened[0].start(SLEEP)
    assert opened[0].start(SLEEP).wait() == 3


def test_outcome_runs_nothing(opened: list[ScriptedSandbox], tmp_path: Path) -> None:
    """A scripted result must not depend on a command that can run."""
    backend = ScriptedBackend(Script(outcome=Outcome(77, b"out", b"err")))
    process = start(backend, opened, Command(["/no/such/command"]))
    assert [(chunk.stream.value, chunk.data) for chunk in process.output()] == [
        ("stdout", b"out"),
        ("stderr", b"err"),
    ]
    assert (process.wait(), process.wait()) == (77, 77)


def test_a_hundred_waiting_commands_cost_neither_threads_nor_processes(opened: list[ScriptedSandbox]) -> None:
    """A measurement of what waits for tasks must not measure the fake."""
    backend = ScriptedBackend(Script(outcome=Outcome(seconds=3600)))
    threads, children = threading.active_count(), children_of_this_process()
    processes = [start(backend, opened) for _ in range(100)]
    assert (threading.active_count(), children_of_this_process()) == (threads, children)
    for process in processes:
        process.kill()
    assert {process.wait() for process in processes} == {137}


def test_kill_frees_who_waits_for_an_outcome(opened: list[ScriptedSandbox]) -> None:
    """A cancelled task must not wait for its script."""
    process = start(ScriptedBackend(Script(outcome=Outcome(seconds=3600))), opened)
    codes: list[int] = []
    waiting = threading.Thread(target=lambda: codes.append(process.wait()), daemon=True)
    waiting.start()
    process.kill()
    waiting.join(60)
    assert codes == [137]


def test_kill_after_an_outcome_changes_nothing(opened: list[ScriptedSandbox]) -> None:
    """A late kill must not rewrite an exit code, also when nobody asked for it before."""
    process = start(ScriptedBackend(Script(outcome=Outcome(5))), opened)
    process.kill()
    assert process.wait() == 5


@pytest.mark.parametrize("outcome", [None, Outcome(seconds=3600)], ids=["run", "scripted"])
def test_lost_after(opened: list[ScriptedSandbox], outcome: Outcome | None) -> None:
    """A sandbox that goes away under its command is neither an exit code nor a hang."""
    backend = ScriptedBackend(Script(lost_after=0.2, outcome=outcome))
    process = start(backend, opened)
    with pytest.raises(SandboxLost, match="took the sandbox away"):
        list(process.output())
    with pytest.raises(SandboxLost):
        process.wait()
    with pytest.raises(SandboxLost):
        opened[0].start(SLEEP)
    assert list(backend.list({})) == []


def test_lost_is_not_for_commands_that_ended_before(opened: list[ScriptedSandbox]) -> None:
    """An answer that was there before the loss stays."""
    backend = ScriptedBackend(Script(lost_after=3600, outcome=Outcome(4)))
    assert start(backend, opened).wait() == 4


def test_open_delay_is_waited() -> None:
    """A slow provider is what makes a supervisor's queue visible."""
    order: list[str] = []

    def slow() -> None:
        ScriptedBackend(Script(open_delay=1.0)).open(SPEC).close()
        order.append("slow")

    thread = threading.Thread(target=slow)
    thread.start()
    ScriptedBackend().open(SPEC).close()
    order.append("quick")
    thread.join()
    assert order == ["quick", "slow"]


def test_script_in_the_options_of_a_spec() -> None:
    """A flow drives a supervisor in another process by its options; a failure comes once."""
    script = {
        "open_failures": [{"error": "QuotaExceeded", "message": "full", "retry_after": 2}, None],
        "outcome": {"exit_code": 9, "stdout": "ü"},
    }
    spec = SandboxSpec(network="host", options={"script": script})
    backend = ScriptedBackend()
    with pytest.raises(QuotaExceeded, match="full") as refused:
        backend.open(spec)
    assert refused.value.retry_after == 2
    sandbox = backend.open(spec)
    process = sandbox.start(SLEEP)
    assert [chunk.data for chunk in process.output()] == ["ü".encode()]
    assert process.wait() == 9
    sandbox.close()


@pytest.mark.parametrize(
    ("script", "cause"),
    [
        ({"oepn_failures": []}, "oepn_failures"),
        ({"outcome": {"code": 1}}, "code"),
        ({"open_failures": [{"error": "KeyboardInterrupt"}]}, "KeyboardInterrupt"),
        ({"pretend": ["TELEPORT"]}, "TELEPORT"),
        ({"pretend": ["MOUNT"]}, "give it to the backend"),
    ],
    ids=["key", "outcome", "error", "feature", "pretend in options"],
)
def test_wrong_script_is_refused(script: dict[str, object], cause: str) -> None:
    """A misspelt script that is ignored makes a test pass that tests nothing."""
    with pytest.raises(UnsupportedOption, match=cause):
        ScriptedBackend().open(SandboxSpec(network="host", options={"script": script}))


def test_script_and_events_through_the_environment(tmp_path: Path) -> None:
    """A supervisor in another process is driven, and watched, through files."""
    events, script = tmp_path / "events", tmp_path / "script.json"
    script.write_text(
        json.dumps({"outcome": {"exit_code": 6}, "events": str(events), "pretend": ["NETWORK_OFF"]})
    )
    code = """
from metaflow_extensions.sandbox.backends.interface import Command, SandboxSpec
from metaflow_extensions.sandbox.backends.registry import load
backend = load("metaflow_extensions.sandbox.testing.scripted:ScriptedBackend")
sandbox = backend.open(SandboxSpec(labels={"step": "one"}, network="none"))
code = sandbox.start(Command(["x"])).wait()
sandbox.close()
raise SystemExit(code)
"""
    env = {**os.environ, VARIABLE: str(script), "TMPDIR": str(tmp_path)}
    assert subprocess.run([sys.executable, "-c", code], env=env).returncode == 6
    told = [json.loads(line) for line in events.read_text().splitlines()]
    assert [event["event"] for event in told] == ["opened", "started", "closed"]
    assert told[0]["labels"] == {"step": "one"}
    assert len({event["id"] for event in told}) == 1


def test_pretended_mounts_are_translated(opened: list[ScriptedSandbox], tmp_path: Path) -> None:
    """What passes a socket or code by a mount can be tried without a wall."""
    (tmp_path / "file").write_text("mounted")
    backend = ScriptedBackend(Script(pretend=frozenset({Feature.MOUNT})))
    spec = SandboxSpec(network="host", mounts=[Mount(tmp_path, PurePosixPath("/run/guest"))])
    opened.append(backend.open(spec))
    code = "import os, sys; print(open(sys.argv[1]).read(), open(os.environ['WHERE'] + '/file').read())"
    process = opened[0].start(
        Command([sys.executable, "-c", code, "/run/guest/file"], env={"WHERE": "/run/guest"})
    )
    assert b"".join(chunk.data for chunk in process.output()) == b"mounted mounted\n"


def test_features_are_not_pretended_unasked() -> None:
    """A fake that claims a wall by default would make a test of the wall pass."""
    own = {Feature.HOST_PYTHON, Feature.STDIN, Feature.GET, Feature.NETWORK_HOST}
    assert ScriptedBackend().features == own


def children_of_this_process() -> list[str]:
    """The process ids of this process's children, from each of its threads."""
    return sorted(
        pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()
    )
