"""Resuming sandboxed runs: what succeeded is taken over, the rest runs in sandboxes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from .both_ways import SANDBOXED, BothWays, Recorded, assert_same, place, record
from .harness import BACKEND, FlowRun, run_flow

BROKEN = {"BROKEN": "yes"}


def tasks_run(process: FlowRun) -> list[str]:
    """The steps of the tasks that a process started, in order of their names."""
    return sorted(re.findall(r"/(\w+)/\d+ \(pid \d+\)\] Task is starting", process.output))


def break_and_resume(
    directory: Path,
    first: tuple[str, ...],
    then: tuple[str, ...],
    env: Mapping[str, str] | None = None,
) -> tuple[FlowRun, Recorded]:
    """Run ResumeFlow until it fails, then resume it; both with their options."""
    flow = place("resume_flow.py", directory, {})
    broken = run_flow(flow, "run", *first, env={**(env or {}), **BROKEN}, check=False)
    assert broken.returncode, broken.output
    return broken, record(run_flow(flow, "resume", *then, env=env), "ResumeFlow", env)


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> BothWays:
    """The resumed runs, plain and sandboxed throughout."""
    directory = tmp_path_factory.mktemp("resume")
    with ThreadPoolExecutor(2) as pool:
        plain = pool.submit(break_and_resume, directory / "plain", (), ())
        sandboxed = pool.submit(break_and_resume, directory / "sandboxed", SANDBOXED, SANDBOXED)
        return BothWays(plain.result()[1], sandboxed.result()[1])


def test_resume_gives_the_same_run(resumed: BothWays) -> None:
    """Guards every fact of a resumed run, those of the tasks that were taken over among them."""
    assert_same(resumed)
    assert resumed.sandboxed.run["successful"]
    assert resumed.sandboxed.value("end", "word") == "'ABC'"
    assert resumed.sandboxed.value("end", "origin") == "True"


def test_only_what_failed_runs_again(resumed: BothWays) -> None:
    """Guards the origin of tasks: a successful sandboxed task is not run twice."""
    tasks = resumed.sandboxed.tasks
    again = {key for key, task in tasks.items() if task["metadata"].get("origin-task-id", "None") == "None"}
    assert again == {"body[1]#1", "join[]#1", "end[]#1"}
    assert resumed.sandboxed.process.output.count(f"[sandbox] {BACKEND} ") == 3


def test_plain_run_can_be_resumed_sandboxed(tmp_path: Path) -> None:
    """Guards that a run's beginning may have been anywhere: a run fails, its rest is sandboxed."""
    _, run = break_and_resume(tmp_path, (), SANDBOXED)
    assert run.value("end", "word") == "'ABC'"
    assert "sandbox-id" in run.task("end")["metadata"]
    assert "sandbox-id" not in run.task("start")["metadata"]


def test_resume_from_a_step(tmp_path: Path) -> None:
    """Guards `resume STEP` of a successful sandboxed run."""
    flow = place("resume_flow.py", tmp_path, {})
    first = run_flow(flow, "run", *SANDBOXED)
    again = run_flow(flow, "resume", "join", *SANDBOXED, "--origin-run-id", first.run_id)
    run = record(again, "ResumeFlow")
    assert run.run["id"] != first.run_id
    assert run.run["successful"]
    assert again.output.count(f"[sandbox] {BACKEND} ") == 2
