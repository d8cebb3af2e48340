"""Sandboxed flows with a metadata service, which only the launcher talks to."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from .both_ways import SANDBOXED, BothWays, place
from .harness import BACKEND, TIMEOUT, flow_environment, read_results
from .live import live_flow
from .recorder import Recorder, recording
from .tour import check_cards, check_tour, run_tour

# The console script's function: the script itself may not be on PATH.
SERVICE = [sys.executable, "-c", "from metaflow_local_service.cli import cli; cli()"]


def service(directory: Path, *command: str) -> str:
    """A command of metaflow-local-service whose state and data are in ``directory``."""
    done = subprocess.run(
        [*SERVICE, *command],
        cwd=directory,
        env=flow_environment({"HOME": str(directory)}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=TIMEOUT,
        check=False,
    )
    output = done.stdout.decode(errors="replace")
    assert done.returncode == 0, output
    return output


@contextlib.contextmanager
def recorded_service(directory: Path) -> Iterator[Recorder]:
    """A service whose data are in ``directory``, with a record of what it was asked."""
    service(directory, "start", "--metaflow-root", str(directory))
    try:
        with recording(service(directory, "url").strip()) as recorder:
            yield recorder
    finally:
        service(directory, "stop")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The service's directory."""
    return tmp_path_factory.mktemp("service")


@pytest.fixture(scope="module")
def recorder(directory: Path) -> Iterator[Recorder]:
    """The service."""
    with recorded_service(directory) as found:
        yield found


@pytest.fixture(scope="module")
def env(recorder: Recorder) -> Mapping[str, str]:
    """The environment of a launcher that uses the service."""
    return {"METAFLOW_SERVICE_URL": recorder.url, "METAFLOW_DEFAULT_METADATA": "service"}


@pytest.fixture(scope="module")
def tour(directory: Path, env: Mapping[str, str]) -> BothWays:
    """TourFlow under the service, both ways; read from its files, as it has no route to one artifact."""
    return run_tour(directory / "tour", env, reading={})


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


def test_documented_way_of_starting_the_service(tmp_path: Path) -> None:
    """Guards `metaflow-local-service run python flow.py run`, which the first run says the better way of."""
    flow = place("small_flow.py", tmp_path, {})
    try:
        command = ("run", "--", sys.executable, flow.name, "run", *SANDBOXED)
        output, again = (service(tmp_path, *command) for _ in range(2))
    finally:
        service(tmp_path, "stop")
    line = "[sandbox] metaflow-local-service cannot look up a single artifact"
    assert [text.count(line) for text in (output, again)] == [1, 0]
    assert output.count(f"[sandbox] {BACKEND} ") == 3
    assert "Done!" in output
    script = "from metaflow import Flow\nprint(Flow('SmallFlow').latest_run.data.total)"
    assert read_results(tmp_path, script).strip() == "6"
