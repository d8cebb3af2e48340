"""logs, shell and explain, kept sandboxes, and what a run tells: on the backend of the flow suite."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from .commands import CLI, ROOT, Done, command, ended
from .harness import BACKEND, TIMEOUT, FlowRun, flow_command, flow_environment, place_flow, run_flow
from .live import LiveFlow, live_directory, live_flow

# A machine under load takes its time to import an SDK.
ONLY = ("--backend", BACKEND, "--deadline", "120")
KEEP = {"METAFLOW_SANDBOX_KEEP": "on-failure"}
WITH = ("--with", "sandbox")


@contextlib.contextmanager
def broken(way: str, env: Mapping[str, str] = {}) -> Iterator[tuple[LiveFlow, dict[str, str]]]:
    """A run of BrokenFlow, and the environment in which its sandboxes are seen."""
    with (
        live_directory() as root,
        live_flow("broken_flow.py", "run", "--way", way, *WITH, env=env, root=root) as flow,
    ):
        yield flow, {"TMPDIR": str(flow.tmp), "XDG_RUNTIME_DIR": ""}


def the_sandbox(flow: LiveFlow, env: Mapping[str, str]) -> dict[str, Any]:
    """The one that the run has."""
    run = FlowRun(0, flow.output, flow.directory).run_id
    (found,) = command("ps", "--json", "--run", run, *ONLY, env=env).json["sandboxes"]
    assert isinstance(found, dict)
    return found


def shell(sandbox: str, typed: str, env: Mapping[str, str]) -> str:
    """What a shell in it shows of what is typed."""
    words = [*CLI, "shell", sandbox, *ONLY]
    done = subprocess.run(
        words,
        env=flow_environment({**env, "TERM": "dumb"}),
        input=typed.encode(),
        capture_output=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode(errors="replace")


@pytest.mark.parametrize("way", ["raise", "exit", "kill"])
def test_a_kept_sandbox_has_a_shell(way: str) -> None:
    """Guards against a failed step of which nothing is left when somebody comes to look."""
    with broken(way, KEEP) as (flow, env):
        flow.wait_for("Its sandbox is kept for 15m00s")
        found = the_sandbox(flow, env)
        assert found["state"] == "kept"
        assert found["kept_until"] > found["created"]
        flow.wait_for(f"'metaflow-sandbox shell {found['id']}'")
        assert "what the step left" in shell(found["id"][:-1], "cat left.txt\nexit\n", env)
        assert "LEFT=2" in shell(found["id"], "echo LEFT=$((1+1))\n", env)
        logs = command("logs", found["id"], *ONLY, env=env).out
        assert "the last words" in logs
        assert command("kill", found["id"], *ONLY, env=env).code == 0
        run = flow.finish()
        flow.assert_gone({found["id"]})
    assert run.returncode == 1
    assert "SandboxLost" not in run.output
    assert "trying again" not in run.output
    assert "METAFLOW_SANDBOX_KEEP" not in run.output


def test_a_kept_sandbox_expires() -> None:
    """Guards against a run that waits for ever because nobody comes to look."""
    with broken("raise", {**KEEP, "METAFLOW_SANDBOX_KEEP_SECONDS": "2"}) as (flow, _):
        run = flow.finish()
        flow.assert_gone()
    assert run.returncode == 1
    assert "is kept for 2.0 s" in run.output
    assert "Step start (task-id 1) failed" in run.output


def test_a_kept_sandbox_goes_with_its_run() -> None:
    """Guards against what is left of a run that was cancelled while one of its sandboxes was kept."""
    with broken("raise", KEEP) as (flow, _):
        flow.wait_for("Its sandbox is kept")
        sandboxes = flow.sandboxes()
        flow.interrupt()
        flow.finish()
        flow.assert_gone(sandboxes)


def test_who_cancels_keeps_nothing() -> None:
    """Guards against a Ctrl-C that is answered by a sandbox kept for a quarter of an hour."""
    with broken("wait", KEEP) as (flow, _):
        flow.wait_for("the last words")
        flow.interrupt()
        run = flow.finish()
        flow.assert_gone()
    assert "is kept" not in run.output


def test_a_running_sandbox() -> None:
    """Guards logs and a shell of a step that runs, which go on without disturbing it."""
    with broken("wait") as (flow, env):
        flow.wait_for("the last words")
        found = the_sandbox(flow, env)
        assert found["state"] == "running"
        assert "what the step left" in shell(found["id"], "cat left.txt\nexit\n", env)
        path = f"{found['flow']}/{found['run']}/{found['step']}/{found['task']}"
        assert "the last words" in command("logs", path, *ONLY, env=env).out
        follow = [*CLI, "logs", "-f", found["id"], *ONLY]
        with subprocess.Popen(follow, env=flow_environment(env), stdout=subprocess.PIPE) as process:
            assert process.stdout
            assert b"isolation" in process.stdout.readline()
            assert flow.process.poll() is None
            command("kill", found["id"], *ONLY, env=env)
            assert b"SandboxLost" in process.stdout.read()
            assert process.wait(TIMEOUT) == 0
        flow.finish()
        missing = command("shell", found["id"], *ONLY, env=env)
    assert missing.code == 1
    assert "there is no sandbox" in missing.err


# --- what a run tells ------------------------------------------------------------------------


def failing(directory: Path, *arguments: str, env: Mapping[str, str] | None = None) -> FlowRun:
    """A run of BrokenFlow that is over."""
    flow = place_flow("broken_flow.py", directory)
    return run_flow(flow, "run", *arguments, *WITH, env=env, check=False)


def test_phases_and_a_summary(tmp_path: Path) -> None:
    """Guards the lines that say what isolates a step and where its time went."""
    run = failing(tmp_path, "--way", "nothing")
    assert run.returncode == 0, run.output
    time = r"[\d.]+ m?s"
    first = rf"\[sandbox\] {BACKEND} \S+ · isolation \w+ · network none · .*opened in {time}"
    assert len(re.findall(first, run.output)) == 2
    assert len(re.findall(rf"\[sandbox\] started in {time}", run.output)) == 2
    assert len(re.findall(rf"\[sandbox\] ran for {time} · closed in {time}", run.output)) == 2
    assert re.search(
        rf"\[sandbox\] 2 tasks in sandboxes · opened in {time} \(median\) · {time} \(slowest, \w+/\d\)",
        run.output,
    )


def test_a_failed_step_says_how_to_look_into_it(tmp_path: Path) -> None:
    """Guards against a failure that leaves its reader without the next step."""
    assert "METAFLOW_SANDBOX_KEEP=on-failure, keeps its sandbox for a shell" in failing(tmp_path).output


def test_quiet(tmp_path: Path) -> None:
    """Guards those who want nothing but their own output, and errors."""
    run = failing(tmp_path, env={"METAFLOW_SANDBOX_LOG": "quiet"})
    assert run.returncode == 1
    assert "[sandbox]" not in run.output
    refused = failing(tmp_path / "refused", env={"METAFLOW_SANDBOX_LOG": "loud"})
    assert "METAFLOW_SANDBOX_LOG is one of phases, quiet" in refused.output


def test_events(tmp_path: Path) -> None:
    """Guards the documented schema: every event of a task's life, in order, with what it is about."""
    file = tmp_path / "events.jsonl"
    run = failing(tmp_path, env={"METAFLOW_SANDBOX_EVENTS": "events.jsonl"})
    events = [json.loads(line) for line in file.read_text().splitlines()]
    assert [event["event"] for event in events] == [
        "sandbox_opening",
        "sandbox_opened",
        "step_started",
        "step_ended",
        "sandbox_closed",
        "task_ended",
        "run_ended",
    ]
    assert all((event["version"], event["run"]) == (1, run.run_id) for event in events)
    of_task = events[:-1]
    assert {(event["step"], event["task"], event["attempt"]) for event in of_task} == {("start", "1", 0)}
    assert {event["backend"] for event in of_task} == {BACKEND}
    assert events[-2]["code"] == 1
    assert events[-2]["outcome"] == "exit code 1"
    assert sorted(event["time"] for event in events) == [event["time"] for event in events]
    documented = (ROOT / "docs/commands.md").read_text().splitlines()
    common = {"version", "time", "event", "flow", "run", "step", "task", "attempt", "backend", "sandbox"}
    for event in events:
        (row,) = [line for line in documented if line.startswith(f"| `{event['event']}` |")]
        assert all(f"`{name}`" in row for name in event.keys() - common), event


def test_debug_files(tmp_path: Path) -> None:
    """Guards what is needed to see what a sandbox was made of, without the secrets that went in."""
    env = {
        "METAFLOW_SANDBOX_DEBUG": "1",
        "METAFLOW_SANDBOX_KEEP_SECONDS": "1",
        "METAFLOW_SANDBOX_ENV": '{"TOKEN": "hunter2"}',
    }
    run = failing(tmp_path, env=env)
    directory = tmp_path / ".metaflow/sandbox-debug/BrokenFlow" / run.run_id / "start/1/0"
    assert f"[sandbox] debug: {directory}" in run.output
    assert "is kept for 1.0 s" in run.output
    files = {path.name: path.read_text() for path in directory.iterdir()}
    assert set(files) == {"script.sh", "environment.txt", "spec.json", "frames.jsonl"}
    assert "TOKEN=***" in files["environment.txt"]
    assert "hunter2" not in "".join(files.values())
    assert "broken_flow.py" in files["script.sh"]
    assert json.loads(files["spec.json"])["labels"]["step"] == "start"
    verbs = [json.loads(line)["header"].get("verb") for line in files["frames.jsonl"].splitlines()]
    assert verbs[0] == "started"
    assert {"save", "register_metadata", "ended"} <= set(verbs)


# --- a task that is over ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def over(tmp_path_factory: pytest.TempPathFactory) -> FlowRun:
    """A run whose step failed twice."""
    retry = ("--with", "retry:times=1,minutes_between_retries=0")
    return failing(tmp_path_factory.mktemp("over"), *retry, "--with", "sandbox:memory=1024")


def about(run: FlowRun, *words: str) -> Done:
    """A command of ``metaflow-sandbox`` where the flow ran."""
    return command(*words, cwd=run.directory)


def test_logs_of_a_task_that_is_over(over: FlowRun) -> None:
    """Guards against logs that are there only while a step runs."""
    path = f"BrokenFlow/{over.run_id}/start/1"
    logs = about(over, "logs", path, *ONLY)
    assert logs.code == 0
    assert "the last words" in logs.out
    assert "broken on purpose" in logs.out
    assert "broken on purpose" not in about(over, "logs", path, "--stdout", *ONLY).out
    assert "the last words" in about(over, "logs", path, "--attempt", "0", *ONLY).out
    behind = [*flow_command(over.directory / "broken_flow.py", "sandbox", "logs", *ONLY)]
    assert "the last words" in ended([*behind, f"{over.run_id}/start/1"], None, over.directory).out


def test_explain(over: FlowRun) -> None:
    """Guards the one page on a task: what isolated it, its times, its end, its last output."""
    path = f"BrokenFlow/{over.run_id}/start/1"
    page = about(over, "explain", path).out
    for line in ("attempt 1", f"{BACKEND} ", "isolation ", "Network      none", "End          exit code 1"):
        assert line in page
    assert "ValueError: broken on purpose" in page
    its = about(over, "explain", path, "--json", "--attempt", "0").json
    assert its["task"] == path
    assert its["attempt"] == 0
    assert list(its["timings"]) == ["queue", "open", "boot", "run", "close"]
    assert its["limits"] == {"memory": 1024}
    assert its["outcome"] == "exit code 1"
    other = about(over, "explain", path, "--json").json
    assert other["id"] != its["id"]


def test_what_is_not_there(over: FlowRun) -> None:
    """Guards against a traceback for a task, a path or an attempt that is not there."""
    for path, text in (
        (f"BrokenFlow/{over.run_id}/start/99", "there is no task"),
        (f"BrokenFlow/{over.run_id}", "is not the path of a task: FLOW/RUN/STEP/TASK"),
    ):
        for name in ("logs", "explain"):
            done = about(over, name, path)
            assert done.code == 1
            assert text in done.err


def test_a_task_without_a_sandbox(tmp_path: Path) -> None:
    """Guards against a page of nothing."""
    flow = place_flow("broken_flow.py", tmp_path)
    run = run_flow(flow, "run", "--way", "nothing")
    done = command("explain", f"BrokenFlow/{run.run_id}/start/1", cwd=tmp_path)
    assert done.code == 1
    assert "has no record of a sandbox" in done.err
