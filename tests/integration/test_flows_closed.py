"""A step marked @sandbox never runs outside of one, whoever starts it."""

from __future__ import annotations

from pathlib import Path

import pytest

from .both_ways import place
from .harness import BACKEND, FlowRun, read_results, run_flow

DISALLOW_RETRY = 202  # the exit code after which Metaflow's orchestrators do not try again


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> FlowRun:
    """A run whose tasks can be the inputs of another."""
    flow = place("closed_flow.py", tmp_path_factory.mktemp("closed"), {})
    return run_flow(flow, "run")


def step(run: FlowRun, name: str, task_id: str, *options: str, **env: str) -> tuple[FlowRun, Path]:
    """Run ``flow.py step`` as a pod does; the process, and where user code leaves a trace."""
    trace = run.directory / f"trace-of-{task_id}"
    done = run_flow(
        run.directory / "closed_flow.py",
        *("--quiet", "--metadata", "local", "--datastore", "local", "step", name),
        *("--run-id", run.run_id, "--task-id", task_id, "--input-paths", f"{run.run_id}/start/1", *options),
        env={"TRACE": str(trace), **env},
        check=False,
    )
    return done, trace


@pytest.mark.parametrize("name", ["plain", "caught"])
def test_step_outside_of_a_sandbox_is_refused(run: FlowRun, name: str) -> None:
    """Guards against user code outside: refused with the cause, not retried, and not caught by @catch."""
    done, trace = step(run, name, f"901{name}", "--max-user-code-retries", "2")
    assert done.returncode == DISALLOW_RETRY, done.output
    assert f"*{name}* is marked @sandbox and this process is in no sandbox" in done.output
    assert "remove @sandbox" in done.output
    assert "Traceback" not in done.output
    assert "user code ran" not in done.output
    assert not trace.exists()


def test_refused_task_has_not_succeeded(run: FlowRun) -> None:
    """Guards what is on record: a refusal must not look like a finished task."""
    done, _ = step(run, "caught", "902late")
    assert done.returncode == DISALLOW_RETRY
    script = (
        "from metaflow import Task, namespace\nnamespace(None)\n"
        f"task = Task('ClosedFlow/{run.run_id}/caught/902late')\nprint(task.successful)"
    )
    assert read_results(run.directory, script).strip() == "False"


def test_fallback_attempt_of_catch_runs_outside(run: FlowRun) -> None:
    """Guards @catch on other orchestrators: the fallback runs no user code, and is let through."""
    done, trace = step(run, "caught", "903", "--retry-count", "3", "--max-user-code-retries", "2")
    assert done.returncode == 0, done.output
    assert "user code ran" not in done.output
    assert not trace.exists()


def test_pretending_to_be_a_guest_is_of_no_use(run: FlowRun) -> None:
    """Guards a variable that was left in somebody's shell: without a relay no step starts."""
    done, trace = step(run, "plain", "904", METAFLOW_SANDBOX_GUEST="1")
    assert done.returncode != 0
    assert "user code ran" not in done.output
    assert not trace.exists()


def test_with_adds_no_second_sandbox(run: FlowRun) -> None:
    """Guards `--with` for a step that is sandboxed already: it is in one sandbox, as the others."""
    again = run_flow(run.directory / "closed_flow.py", "run", "--with", "sandbox")
    assert again.output.count(f"[sandbox] {BACKEND} ") == 5
