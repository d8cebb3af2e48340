"""One task from its shim's request to its shim's answer, with real processes and a backend without walls."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from metaflow_extensions.sandbox.backends import owner
from metaflow_extensions.sandbox.backends.interface import Command, SandboxSpec
from metaflow_extensions.sandbox.errors import QuotaExceeded, SandboxLost, StartFailed, UnsupportedOption
from metaflow_extensions.sandbox.supervisor import outcome as outcome_module
from metaflow_extensions.sandbox.supervisor import task as task_module
from metaflow_extensions.sandbox.supervisor.outcome import Outcome
from metaflow_extensions.sandbox.supervisor.story import NOTICES_SHOWN

from ..relay.parts import IDENTITY, settle, short_directory
from .parts import FINISH, OpenProcess, OpenSandbox, Stage


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.setattr(outcome_module, "BACKOFF", 0.01)
    with short_directory() as place:
        made = Stage(place)
        yield made
        made.close()


def test_a_task_that_succeeds(stage: Stage) -> None:
    """Guards against the way of an honest task: its output, its records, and nothing left behind."""
    outcome, said = stage.run(
        f"print('hello')\n{FINISH}", spec=SandboxSpec(image="python", labels={"step": "train"})
    )
    assert outcome == Outcome(0)
    assert "hello\n" in said
    sandbox = stage.backend.opened[0]
    assert f"[sandbox] open {sandbox.id} · isolation process · network none" in said
    assert stage.backend.closed == [sandbox.id]
    assert [path.name for path in stage.directory.iterdir()] == ["code"]
    labels = {"step": "train", "supervisor": "run", "backend": "open", **owner.labels()}
    assert sandbox.spec.labels == labels
    metadata = stage.metadata()
    assert {name: metadata[name] for name in metadata if name != "sandbox-timings"} == {
        "sandbox-backend": "open",
        "sandbox-id": sandbox.id,
        "sandbox-isolation": "process",
        "sandbox-image": "python",
        "sandbox-network": "none",
        "sandbox-limits": "{}",
        "sandbox-outcome": "exit code 0",
        "sandbox-peak-memory-mib": "12.3",
        "sandbox-cpu-seconds": metadata["sandbox-cpu-seconds"],
        "sandbox-startup": metadata["sandbox-startup"],
    }
    timings = json.loads(metadata["sandbox-timings"])
    assert list(timings) == ["queue", "open", "boot", "run", "close"]
    assert all(seconds >= 0 for seconds in timings.values())
    assert list(json.loads(metadata["sandbox-startup"])) == ["queue", "open", "boot"]
    assert {call[1] for call in stage.services.calls} == {IDENTITY}


def test_nothing_of_the_launchers_goes_in(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against the launcher's environment in the command."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    stage.run(FINISH)
    assert set(stage.backend.commands[0].env) == {"PYTHONPATH", "METAFLOW_SANDBOX_RELAY"}


def test_an_image_without_python(stage: Stage, tmp_path: Path) -> None:
    """Guards against an exit code as all that the user hears of an image that has no such program."""
    absent = tmp_path / "python"
    absent.write_text("#!/bin/sh\nexit 127\n")  # what an engine's init answers
    absent.chmod(0o755)
    outcome, said = stage.execute(stage.task("", executable=str(absent)))
    assert outcome == Outcome(127)
    assert f"{absent}, cannot be started: executable= names another one" in said


@pytest.mark.parametrize("code", [1, 42, 127, 143, 200, 202, 255])
def test_exit_codes(stage: Stage, code: int) -> None:
    """Guards against a code above 128 that is taken for a signal; 202 tells Metaflow not to retry."""
    assert stage.run(f"import os; os._exit({code})")[0] == Outcome(code)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_death_by_a_signal(stage: Stage, number: signal.Signals) -> None:
    """Guards against a shim that does not die as its step died."""
    outcome, _ = stage.run(f"import os; os.kill(os.getpid(), {int(number)})")
    assert outcome == Outcome(128 + number, number)


def test_a_guest_that_is_killed(stage: Stage) -> None:
    """Guards against a task that counts as done, or is tried again, when its guest is gone."""
    outcome, said = stage.run("import os, time; os.kill(os.getppid(), 9); time.sleep(0.3)")
    assert outcome == Outcome(128 + 9, 9)
    assert "was killed" in said
    assert len(stage.backend.opened) == 1


def test_an_end_without_results(stage: Stage) -> None:
    """Guards against a scheduler that looks for results that were never saved."""
    outcome, said = stage.run("import os; os._exit(0)")
    assert outcome == Outcome(1)
    assert "ended without saving its results" in said


def test_output_without_end(stage: Stage) -> None:
    """Guards against the last words of a step being lost."""
    assert "last words\n" in stage.run("print('last words', end=''); raise SystemExit(3)")[1]


# --- time and signals -------------------------------------------------------------------------


def test_a_timeout(stage: Stage) -> None:
    """Guards against a step that no limit ends."""
    outcome, said = stage.run("import time; print('begun', flush=True); time.sleep(60)", timeout=0.5)
    assert outcome == Outcome(1)
    assert "begun\n" in said
    assert "CommandTimeout: the step was ended after its limit of 0.5 s" in said
    assert stage.watcher._deadlines == []


def test_a_limit_that_is_not_reached(stage: Stage) -> None:
    """Guards against finished tasks that are kept until their limit, five days by default."""
    assert stage.run(FINISH, timeout=3600)[0] == Outcome(0)
    assert stage.watcher._deadlines == []


WAIT_FOR_SIGNALS = "import time; print('ready', flush=True); time.sleep(60)"


def test_a_signal_is_passed_on(stage: Stage) -> None:
    """Guards against a step that does not hear of Ctrl-C."""
    task = stage.task(f"import signal, sys; signal.signal(15, lambda *_: sys.exit(7)); {WAIT_FOR_SIGNALS}")
    threading.Thread(target=lambda: (settle(lambda: b"ready" in stage.said), task.signal(15))).start()
    assert stage.execute(task)[0] == Outcome(7)


def test_a_signal_that_is_not_obeyed(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a step that ignores Ctrl-C and holds up the end of the run."""
    monkeypatch.setattr(task_module, "GRACE", 0.1)
    task = stage.task(f"import signal; signal.signal(15, signal.SIG_IGN); {WAIT_FOR_SIGNALS}")
    threading.Thread(target=lambda: (settle(lambda: b"ready" in stage.said), task.signal(15))).start()
    assert stage.execute(task)[0] == Outcome(1, 15)


def test_a_signal_before_there_is_a_step(stage: Stage) -> None:
    """Guards against a step that starts after its task was ended."""
    task = stage.task("print('ran')")
    task.signal(2)
    outcome, said = stage.execute(task)
    assert outcome == Outcome(1, 2)
    assert "ran" not in said


def test_nobody_waits(stage: Stage) -> None:
    """Guards against a sandbox that outlives its shim."""
    task = stage.task("import time; print('ready', flush=True); time.sleep(60)")
    threading.Thread(
        target=lambda: (settle(lambda: b"ready" in stage.said), task.cancel(), task.cancel())
    ).start()
    assert stage.execute(task)[0] == Outcome(1)
    assert stage.backend.closed == [stage.backend.opened[0].id]


# --- failures of the provider -----------------------------------------------------------------


@pytest.mark.parametrize("where", ["open_failures", "start_failures"])
def test_a_provider_that_fails_first(stage: Stage, where: str) -> None:
    """Guards against a run that ends for a failure that passes, and against silence about it."""
    setattr(stage.backend, where, [StartFailed("no room"), SandboxLost("gone")])
    outcome, said = stage.run(FINISH)
    assert outcome == Outcome(0)
    assert "[sandbox] StartFailed: no room\n[sandbox] No user code has run: trying again in" in said
    assert "[sandbox] SandboxLost: gone\n[sandbox] No user code has run: trying again in" in said
    assert len(stage.backend.closed) == len(stage.backend.opened)


def test_a_full_provider_is_waited_for(stage: Stage) -> None:
    """Guards against counting as failures that there is no room yet."""
    stage.backend.open_failures = [QuotaExceeded("full", retry_after=0.01)] * 5
    outcome, said = stage.run(FINISH)
    assert outcome == Outcome(0)
    assert "QuotaExceeded" not in said


def test_a_provider_that_keeps_failing(stage: Stage) -> None:
    """Guards against trying for ever."""
    stage.backend.open_failures = [StartFailed(f"number {number}") for number in range(9)]
    outcome, said = stage.run(FINISH)
    assert outcome == Outcome(1)
    assert said.endswith("[sandbox] StartFailed: number 2\n")
    assert len(stage.backend.open_failures) == 6


def test_an_option_that_is_refused(stage: Stage) -> None:
    """Guards against trying again what cannot succeed."""
    stage.backend.open_failures = [UnsupportedOption("no gpu here"), StartFailed("not tried")]
    assert stage.run(FINISH) == (Outcome(1), "[sandbox] UnsupportedOption: no gpu here\n")
    assert len(stage.backend.open_failures) == 1


def test_user_code_runs_once(stage: Stage) -> None:
    """Guards against a step that runs a second time because its sandbox went away."""

    class Lost:
        def __init__(self, process: object) -> None:
            self._process = process

        def __getattr__(self, name: str) -> object:
            return getattr(self._process, name)

        def output(self) -> Iterator[object]:
            yield from self._process.output()  # type: ignore[attr-defined]
            raise SandboxLost("gone")

    start = type(stage.backend).open

    def open_and_lose(spec: SandboxSpec) -> object:
        sandbox = start(stage.backend, spec)
        begin = sandbox.start
        sandbox.start = lambda command: Lost(begin(command))  # type: ignore[method-assign, assignment, return-value]
        return sandbox

    stage.backend.open = open_and_lose  # type: ignore[method-assign, assignment]
    outcome, said = stage.run("print('ran')")
    assert outcome == Outcome(1)
    assert said.count("ran\n") == 1
    assert said.endswith("[sandbox] SandboxLost: gone\n")
    assert len(stage.backend.opened) == 1


def test_a_cancelled_task_is_not_tried_again(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a wait between tries that nobody can end."""
    monkeypatch.setattr(outcome_module, "BACKOFF", 60)
    stage.backend.open_failures = [StartFailed("no room")] * 3
    task = stage.task(FINISH)
    threading.Thread(target=lambda: (settle(lambda: b"trying again" in stage.said), task.cancel())).start()
    assert stage.execute(task)[0] == Outcome(1)
    assert len(stage.backend.open_failures) == 2


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), ValueError("the backend's own bug")]
)
def test_other_failures(stage: Stage, error: Exception) -> None:
    """Guards against a shim that waits in vain because a backend failed otherwise than it may."""
    stage.backend.open_failures = [error]
    outcome, said = stage.run(FINISH)
    assert outcome == Outcome(1)
    assert str(error) in said


def test_figures_that_cannot_be_had(stage: Stage) -> None:
    """Guards against a sandbox that is left open because its figures could not be read."""
    stage.backend.stats_failure = SandboxLost("no figures")
    assert stage.run(FINISH)[0] == Outcome(1)
    assert stage.backend.closed == [stage.backend.opened[0].id]
    assert [path.name for path in stage.directory.iterdir()] == ["code"]


def test_a_metadata_provider_that_fails(stage: Stage) -> None:
    """Guards against a task that fails because its sandbox could not be recorded."""
    stage.services.register_metadata = lambda *_: exec("raise OSError('service gone')")  # type: ignore[method-assign]
    outcome, said = stage.run(FINISH)
    assert outcome == Outcome(0)
    assert "register_metadata failed on the launcher: OSError: service gone" in said


# --- refusals ---------------------------------------------------------------------------------


def test_refusals_are_shown_and_counted(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """Guards against refusals that nobody sees, and against as many lines as a guest likes."""
    script = """
from guest.client import RelayClient, RelayRefused
client = RelayClient()
for number in range(1500):
    try:
        client.call("size_file", store="local@/data", path="Flow/13/%d" % number)
    except RelayRefused as error:
        refused = error
    try:
        client.call("metadata_object", kind="run", sub_kind="self", path=["Flow", "12"])
    except RelayRefused:
        pass
print("said:", refused)
"""

    def fail(*_: object) -> None:
        raise RuntimeError("\x1b[2J\nforged")

    stage.services.metadata_object = fail  # type: ignore[method-assign, assignment]
    _, said = stage.run(script)
    assert "said: refused: read of 'Flow/13/1499'" in said
    lines = [line for line in said.splitlines() if line.startswith("[sandbox] ")][1:-1]
    assert "[sandbox] refused: read of 'Flow/13/0': neither this task's own nor one of its inputs" in lines
    assert "[sandbox] metadata_object failed on the launcher: RuntimeError: \\x1b[2J" in lines
    assert len(lines) <= 2 * NOTICES_SHOWN + 1
    assert "\x1b" not in said
    assert 900 < len(caplog.records) < 1100
    assert stage.metadata()["sandbox-refusals"] == "1500"


def test_a_flood_of_connections(stage: Stage) -> None:
    """Guards against a guest that keeps the supervisor from its other tasks."""
    script = """
import os, socket, time
address = os.environ["METAFLOW_SANDBOX_RELAY"][5:]
held, end = [], time.monotonic() + 1
while time.monotonic() < end:
    one = socket.socket(socket.AF_UNIX)
    one.connect(address)
    held = [*held[-100:], one]
"""
    late: list[float] = []

    def tick(due: float) -> None:
        late.append(time.monotonic() - due)
        following = time.monotonic() + 0.02
        stage.watcher.call_at(following, lambda: tick(following))

    tick(time.monotonic())
    before = threading.active_count()
    stage.run(script)
    assert len(late) > 10
    assert sorted(late)[len(late) // 2] < 1
    settle(lambda: threading.active_count() <= before + 1)
    assert int(stage.metadata()["sandbox-refusals"]) >= 1


def test_a_guest_faster_than_the_call_that_starts_it(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a step whose start is not noted because the backend's own call has not returned."""
    start = OpenSandbox.start

    def late(sandbox: OpenSandbox, command: Command) -> OpenProcess:
        process = start(sandbox, command)
        time.sleep(0.5)
        return process

    monkeypatch.setattr(OpenSandbox, "start", late)
    outcome, said = stage.run(FINISH)
    assert outcome == Outcome(0)
    assert "refused" not in said
    assert said.index("opened in") < said.index("started in")
    assert "sandbox-id" in stage.metadata()
