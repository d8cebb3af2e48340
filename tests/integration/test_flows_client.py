"""What a step asks of Metaflow's Client about its own run, inside a sandbox."""

from __future__ import annotations

from pathlib import Path

from .harness import place_flow, run_flow


def test_a_step_finds_the_relatives_of_finished_tasks(tmp_path: Path) -> None:
    """The Client asks the metadata provider to filter tasks, which each provider does in its own way."""
    run = run_flow(place_flow("relatives_flow.py", tmp_path), "run")
    assert "parents of the tasks before: ['start', 'start']" in run.output
