"""Sandboxed flows with a metadata service, which only the launcher talks to."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from .both_ways import SANDBOXED, BothWays, place
from .harness import BACKEND, read_results
from .live import live_flow
from .recorder import Recorder, recording
from .services import UPSTREAM, Service, running
from .tour import check_cards, check_tour, run_tour


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One that runs."""
    with running(UPSTREAM, tmp_path_factory.mktemp("service")) as service:
        yield service


@pytest.fixture(scope="module")
def recorder(service: Service) -> Iterator[Recorder]:
    """The service, with a record of what it was asked."""
    with recording(service.url) as recorder:
        yield recorder


@pytest.fixture(scope="module")
def env(recorder: Recorder) -> Mapping[str, str]:
    """The environment of a launcher that uses the service."""
    return {"METAFLOW_SERVICE_URL": recorder.url, "METAFLOW_DEFAULT_METADATA": "service"}


@pytest.fixture(scope="module")
def tour(service: Service, env: Mapping[str, str]) -> BothWays:
    """TourFlow under the service, both ways; read from its files, as it has no route to one artifact."""
    return run_tour(service.directory / "tour", env, reading={})


def test_results_under_a_service_are_the_same(tour: BothWays) -> None:
    """Guards metadata that is registered through the relay and a service's own provider."""
    check_tour(tour)


def test_cards_under_a_service_are_the_same(tour: BothWays) -> None:
    """Guards cards, whose creation inside asks for the task's record."""
    check_cards(tour, {})


def test_client_reads_through_the_service(tour: BothWays, env: Mapping[str, str]) -> None:
    """Guards the form in which records reach a service: its client finds what it would of a plain run."""
    script = """
import json
from metaflow import Run, namespace
namespace(None)
told = {}
for step in Run(PATHSPEC):
    for number, task in enumerate(sorted(step, key=lambda task: int(task.id))):
        kept = {artifact.id: repr(artifact.data)[:200] for artifact in task if artifact.id != "foreign"}
        fields = sorted(name for name in task.metadata_dict if len(name) < 30)
        told[f"{step.id} {number}"] = [kept, task.stdout, sorted(task.user_tags), fields]
print(json.dumps(told))
"""
    plain, sandboxed = (
        json.loads(
            read_results(run.process.directory, f"PATHSPEC = 'TourFlow/{run.run['id']}'\n{script}", env)
        )
        for run in (tour.plain, tour.sandboxed)
    )
    assert plain.keys() == sandboxed.keys()
    for task, (kept, stdout, tags, fields) in sandboxed.items():
        assert [kept, stdout, tags] == plain[task][:3]
        added = {field for field in fields if field.startswith("sandbox-")}
        assert {"sandbox-backend", "sandbox-id", "sandbox-isolation", "sandbox-timings"} <= added
        assert sorted(set(fields) - added) == plain[task][3]


def test_heart_beats_while_the_step_runs(recorder: Recorder, env: Mapping[str, str]) -> None:
    """Guards the heartbeats, without which a service takes a running task for a dead one."""
    with live_flow("waiting_flow.py", "run", *SANDBOXED, env=env) as flow:
        flow.wait_for("ready")
        flow.until(lambda: recorder.heartbeats("WaitingFlow").count("start") > 1, "two heartbeats")
        flow.kill("shim", signal.SIGUSR1)
        done = flow.finish()
    assert done.returncode == 0, done.output


@pytest.mark.parametrize("options", [(), SANDBOXED], ids=["plain", "sandboxed"])
def test_documented_way_of_starting_the_service(tmp_path: Path, options: tuple[str, ...]) -> None:
    """Guards `metaflow-local-service run python flow.py run`, which the first run says the better way of."""
    service = Service(UPSTREAM, tmp_path)
    flow = place("small_flow.py", tmp_path, {})
    try:
        command = ("run", "--", sys.executable, flow.name, "run", *options)
        output, again = (service.command(*command) for _ in range(2))
    finally:
        service.command("stop")
    line = "[sandbox] metaflow-local-service cannot look up a single artifact"
    assert [text.count(line) for text in (output, again)] == [1, 0]
    assert output.count(f"[sandbox] {BACKEND} ") == (3 if options else 0)
    assert "Done!" in output
    script = "from metaflow import Flow\nprint(Flow('SmallFlow').latest_run.data.total)"
    assert read_results(tmp_path, script).strip() == "6"
