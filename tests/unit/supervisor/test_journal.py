"""A run's events and its summary."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from metaflow_extensions.sandbox.supervisor.journal import Journal, Phase, TaskFacts


class Notes:
    """A tracer that remembers."""

    def __init__(self) -> None:
        self.tasks: list[tuple[str, list[str], Mapping[str, Any]]] = []
        self.flushed = False

    def task(self, name: str, phases: Sequence[Phase], attributes: Mapping[str, Any]) -> None:
        self.tasks.append((name, [phase.name for phase in phases], attributes))

    def flush(self) -> None:
        self.flushed = True


def test_the_summary() -> None:
    """Guards against a run's last line that is wrong, or there without a sandbox."""
    journal = Journal()
    assert journal.close() == ""
    for name, opened_in, peak in (("a/1", 0.01, 80.0), ("b/2", 0.3, 2048.0), ("b/3", 0.02, None)):
        journal.over(TaskFacts(name, opened_in, peak, 1), [], {})
    journal.over(TaskFacts("c/4", None, None, 0), [], {})
    assert journal.close() == (
        "4 tasks in sandboxes · opened in 20 ms (median) · 300 ms (slowest, b/2) "
        "· peak memory 2 GiB (b/2) · 3 refusals"
    )


def test_events_are_added(tmp_path: Path) -> None:
    """Guards a file that several runs share against what one of them loses or overwrites."""
    file = tmp_path / "events"
    file.write_text('{"earlier": true}\n')
    journals = [Journal(str(file), {"flow": "Flow", "run": str(run)}) for run in range(2)]
    for number in range(20):
        journals[number % 2].event("sandbox_opened", task=str(number))
    journals[0].close()
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert lines[0] == {"earlier": True}
    assert [line["task"] for line in lines[1:-1]] == [str(number) for number in range(20)]
    assert {(line["version"], line["flow"]) for line in lines[1:]} == {(1, "Flow")}
    assert {name: lines[-1][name] for name in ("event", "run", "tasks", "refusals")} == {
        "event": "run_ended",
        "run": "0",
        "tasks": 0,
        "refusals": 0,
    }


def test_events_that_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Guards a run against a full disk, or a directory that was taken away."""
    Journal(str(tmp_path / "missing" / "events")).event("x")
    Journal("/dev/full").event("x")
    assert "no events are written" in caplog.text
    assert "No space left" in caplog.text


def test_spans_are_told() -> None:
    """Guards against tasks without spans, or spans that are never sent."""
    journal, notes = Journal("", {"flow": "Flow"}), Notes()
    journal.tracer = notes
    journal.over(TaskFacts("a/1", 0.1, None, 0), [Phase("open", 1.0, 2.0)], {"backend": "x"})
    journal.close()
    assert notes.tasks == [("a/1", ["open"], {"flow": "Flow", "backend": "x"})]
    assert notes.flushed
