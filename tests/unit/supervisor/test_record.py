"""What is on record of a sandbox: the image that the step ran in, and how long it took to start."""

from __future__ import annotations

import json

import pytest

from metaflow_extensions.sandbox.backends.interface import SandboxSpec
from metaflow_extensions.sandbox.supervisor.record import TaskRecord, identity
from metaflow_extensions.sandbox.testing.scripted import ScriptedBackend


class WithDefault(ScriptedBackend):
    """A backend with images."""

    default_image = "python:3-slim"


@pytest.mark.parametrize(
    ("backend", "asked", "recorded"),
    [
        (ScriptedBackend(), None, ""),
        (WithDefault(), None, "python:3-slim"),
        (WithDefault(), "debian:12", "debian:12"),
    ],
)
def test_the_image_on_record_is_the_one_that_was_used(
    backend: ScriptedBackend, asked: str | None, recorded: str
) -> None:
    """Guards against a record that does not say what a step ran in."""
    assert identity("any", backend, "sbx-1", SandboxSpec(image=asked))["sandbox-image"] == recorded


def test_a_guest_that_is_faster_than_its_launcher() -> None:
    """Guards against a start that is refused, or a negative time, when it comes before it was noted."""
    record = TaskRecord()
    for moment in ("opening", "started", "opened", "closing", "closed"):
        record.mark(moment)
    phases = json.loads(record.measurements()["sandbox-timings"])
    assert phases["boot"] == 0
    assert all(seconds >= 0 for seconds in phases.values())
    assert TaskRecord().seconds("opened", "started") == 0


def test_a_start_is_on_record_before_all_of_it_is_noted() -> None:
    """A guest that is faster than the call that starts it must not fail for a moment that is not noted."""
    record = TaskRecord()
    record.mark("opening")
    record.mark("started")
    started = json.loads(record.startup()["sandbox-startup"])
    assert list(started) == ["queue", "open", "boot"]
    assert started["open"] == started["boot"] == 0
