"""@parallel and unbounded foreach: beside sandboxed steps they work, in one they are refused."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from .both_ways import place, record
from .harness import BACKEND, FlowRun, run_flow

# Metaflow starts the further tasks of such a step with the command "python".
ENV: Mapping[str, str] = {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}


def test_steps_between_them_can_be_sandboxed(tmp_path: Path) -> None:
    """Guards the artifacts and task ids of such steps, which a sandboxed neighbour writes and reads."""
    flow = place("spread_flow.py", tmp_path, {})
    process = run_flow(flow, "run", env=ENV)
    run = record(process, "SpreadFlow", ENV)
    assert run.value("bound", "places") == "[(0, 3), (1, 3), (2, 3)]"
    assert run.value("bound", "doubles") == "[2, 4]"
    assert process.output.count(f"[sandbox] {BACKEND} ") == 4


def refused(process: FlowRun, step: str) -> bool:
    """Whether a run ended with one message about the step, and no traceback of Metaflow's."""
    return (
        process.returncode != 0
        and f"Step {step} is marked @sandbox" in process.output
        and "a sandbox holds one task only" in process.output
        and "Internal error" not in process.output
    )


def test_parallel_step_is_refused_before_anything_runs(tmp_path: Path) -> None:
    """Guards against a confusing failure after user code ran: Metaflow's nodes need tasks of their own."""
    process = run_flow(
        place("spread_flow.py", tmp_path, {}), "run", "--with", "sandbox", env=ENV, check=False
    )
    assert refused(process, "node"), process.output
    assert "Task is starting" not in process.output


def test_unbounded_foreach_is_refused_when_it_starts(tmp_path: Path) -> None:
    """Guards the same for an unbounded foreach, which only shows itself as its first task starts."""
    flow = place("spread_flow.py", tmp_path, {})
    source = flow.read_text()
    flow.write_text(source.replace("    @unbounded_test", "    @sandbox\n    @unbounded_test"))
    process = run_flow(flow, "run", env=ENV, check=False)
    assert refused(process, "unbounded"), process.output
    assert not (tmp_path / "ran-unbounded").exists()
    assert (tmp_path / "ran-node").exists()
