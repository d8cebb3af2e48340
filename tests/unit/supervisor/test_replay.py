"""A task's records on their way to the metadata provider: each once, whatever happens in between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from metaflow_extensions.sandbox.relay.intake import Intake
from metaflow_extensions.sandbox.relay.policy import TaskIdentity
from metaflow_extensions.sandbox.relay.records import Entry
from metaflow_extensions.sandbox.relay.records_archive import Records
from metaflow_extensions.sandbox.relay.services import Limits
from metaflow_extensions.sandbox.relay.vetting import ArtifactPolicy
from metaflow_extensions.sandbox.supervisor.replay import Replay

from ..relay.parts import IDENTITY, STORE, RememberingServices

ARTIFACT = {"name": "x", "ds_type": "local", "ds_root": "/data", "url": None, "type": "pickle", "sha": "1"}


class Failing(RememberingServices):
    """A provider that fails as often as it is told, before it has kept the records or after."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.before, self.after = 0, 0
        self.kept: list[Entry] = []
        self.artifacts: list[Mapping[str, str | None]] = []

    def register_metadata(
        self, task: TaskIdentity, items: Sequence[tuple[str, str | None, str, list[str]]]
    ) -> None:
        self._keep(self.kept, items)

    def register_artifacts(self, task: TaskIdentity, items: Sequence[Mapping[str, str | None]]) -> None:
        self._keep(self.artifacts, items)

    def _keep(self, place: list[Any], items: Sequence[Any]) -> None:
        if self.before:
            self.before -= 1
            raise ConnectionError("it is restarting")
        place.extend(items)
        if self.after:
            self.after -= 1
            raise ConnectionError("the answer is lost")

    def metadata_object(
        self, kind: str, sub_kind: str, filters: dict[str, Any], attempt: int | None, path: Sequence[str]
    ) -> Any:
        assert (kind, list(path)) == ("task", ["Flow", "12", "train", "7"])
        if sub_kind == "artifact":
            return [{"name": each["name"]} for each in self.artifacts]
        return [{"field_name": each[0], "value": each[1], "type": each[2]} for each in self.kept]


class Bench:
    """A replay and what it says."""

    def __init__(self, place: Path) -> None:
        self.services = Failing(place)
        self.said: list[str] = []
        intake = Intake("Flow", place, Limits(), ArtifactPolicy())
        intake.accepted = {"x": ("1", "pickle")}
        self.replay = Replay(IDENTITY, STORE, lambda: self.services, {}, intake, self.said.append)

    def fields(self) -> list[tuple[str, str | None]]:
        return [each[:2] for each in self.services.kept]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def records(*fields: str, artifacts: int = 0, **values: str) -> Records:
    entries = {f"sysmeta_{n}": (field, values.get(field, "1"), field, []) for n, field in enumerate(fields)}
    return Records(entries, [ARTIFACT] * artifacts, [])


def test_each_is_told_once(bench: Bench) -> None:
    """Guards against records that every look at a running task registers again."""
    for known in (("a",), ("a", "b"), ("a", "b", "c"), ("a", "b", "c")):
        bench.replay.register(records(*known), complete=False)
    assert bench.fields() == [("a", "1"), ("b", "1"), ("c", "1")]


def test_fields_that_come_twice_are_told_apart(bench: Bench) -> None:
    """Guards against the local provider, which keeps one of two entries of a field in one call."""
    entries = {str(n): ("a", str(n), "a", []) for n in range(5)}
    bench.replay.register(Records(entries, [], []), complete=False)
    assert bench.fields() == [("a", str(n)) for n in range(5)]


@pytest.mark.parametrize("when", ["before", "after"])
def test_nothing_is_lost_or_doubled_when_the_service_restarts(bench: Bench, when: str) -> None:
    """Guards records whose registration failed, and those of which only the answer was lost."""
    setattr(bench.services, when, 1)
    with pytest.raises(ConnectionError):
        bench.replay.register(records("a", "b"), complete=False)
    bench.replay.register(records("a", "b", "c"), complete=False)
    assert sorted(bench.fields()) == [("a", "1"), ("b", "1"), ("c", "1")]


@pytest.mark.parametrize("when", ["before", "after"])
def test_artifacts_are_told_once(bench: Bench, when: str) -> None:
    """Guards artifacts over a service that restarts."""
    setattr(bench.services, when, 1)
    with pytest.raises(ConnectionError):
        bench.replay.register(records(artifacts=1), complete=True)
    for _ in range(2):
        bench.replay.register(records(artifacts=1), complete=True)
    assert bench.services.artifacts == [ARTIFACT]


def test_only_published_results_are_done(bench: Bench) -> None:
    """Guards the Client, which takes an attempt for done that says so, before the launcher has looked."""
    written = records("attempt-done", "a", artifacts=1)
    bench.replay.register(written, complete=False)
    assert bench.fields() == [("a", "1")]
    assert bench.services.artifacts == []
    bench.replay.register(written, complete=True)
    assert bench.fields() == [("a", "1"), ("attempt-done", "1")]
    assert bench.services.artifacts == [ARTIFACT]


@pytest.mark.parametrize(
    "field", ["sandbox-id", "attempt-done-x", "origin-task-id", "ds-root", "a/b", "log_location_stdout"]
)
def test_what_is_not_the_tasks_is_refused(bench: Bench, field: str) -> None:
    """Guards the launcher's own records, and those that tell the Client where to read; said once."""
    for _ in range(3):
        bench.replay.register(records(field, "a"), complete=True)
    assert bench.fields() == [("a", "1")]
    assert len(bench.said) == 1


def test_artifacts_that_were_not_handed_in(bench: Bench) -> None:
    """Guards the Client against an artifact that was never vetted."""
    for other in ({"sha": "2"}, {"name": "y"}, {"ds_root": "/elsewhere"}, {"type": "other"}):
        bench.replay.register(Records({}, [{**ARTIFACT, **other}], []), complete=True)
    assert bench.services.artifacts == []


def test_too_many_records(tmp_path: Path) -> None:
    """Guards the metadata service against records without end."""
    bench = Bench(tmp_path)
    bench.replay._intake = Intake("Flow", tmp_path, Limits(pieces=10), ArtifactPolicy())
    bench.replay.register(records(*(f"f{n}" for n in range(30))), complete=False)
    assert len(bench.fields()) == 10
