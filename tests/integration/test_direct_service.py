"""Direct mode under a metadata service: what comes back through the bucket is in the service, once."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from . import outside
from .both_ways import SANDBOXED, BothWays, assert_same, run_both_ways
from .harness import read_results
from .live import live_flow
from .recorder import Recorder, end_while_away, recording
from .s3 import Bucket, bucket
from .services import UPSTREAM, Service, running


@pytest.fixture(scope="module")
def s3() -> Iterator[Bucket]:
    """A bucket."""
    with bucket() as made:
        yield made


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One that runs."""
    with running(UPSTREAM, tmp_path_factory.mktemp("service")) as found:
        yield found


@pytest.fixture(scope="module")
def recorder(service: Service) -> Iterator[Recorder]:
    """It, with a record of what it was asked."""
    with recording(service.url) as found:
        yield found


@pytest.fixture(scope="module")
def env(recorder: Recorder, s3: Bucket) -> Mapping[str, str]:
    """The environment of a launcher that uses the service and the bucket."""
    return {
        **s3.settings,
        **outside.settings(),
        "METAFLOW_SANDBOX_NETWORK": "public",
        "METAFLOW_SANDBOX_DATASTORE_ACCESS": "direct",
        "METAFLOW_SERVICE_URL": recorder.url,
        "METAFLOW_DEFAULT_METADATA": "service",
    }


@pytest.fixture(scope="module")
def resumable(service: Service, env: Mapping[str, str], s3: Bucket) -> BothWays:
    """A flow with a foreach under the service, both ways; read from its files."""
    return run_both_ways(
        "resume_flow.py", "ResumeFlow", service.directory / "both", env=env, reading=s3.settings
    )


def test_results_under_a_service_are_the_same(resumable: BothWays) -> None:
    """Guards metadata that the launcher registers with a service's own provider."""
    assert_same(resumable)
    assert resumable.sandboxed.value("end", "word") == "'ABC'"


FIELDS = """
import json
from metaflow import Run, namespace
namespace(None)
told = [[entry.name for entry in task.metadata] for step in Run("{run}") for task in step]
print(json.dumps(told))
"""


def fields(directory: Path, run: str, env: Mapping[str, str]) -> list[Counter[str]]:
    """How often each field of each task's metadata was registered, as the service says."""
    told = json.loads(read_results(directory, FIELDS.format(run=run), env))
    return [Counter(name for name in names if not name.startswith("sandbox-")) for names in told]


def test_each_record_is_there_once(resumable: BothWays, env: Mapping[str, str]) -> None:
    """Guards against records that are registered again each time that the archive is read."""
    plain, sandboxed = (
        fields(run.process.directory, f"ResumeFlow/{run.run['id']}", env)
        for run in (resumable.plain, resumable.sandboxed)
    )
    assert len(sandboxed) == 6
    assert sorted(map(sorted, sandboxed)) == sorted(map(sorted, plain))
    assert sandboxed == plain


def test_the_launchers_heart_beats(recorder: Recorder, env: Mapping[str, str]) -> None:
    """Guards heartbeats, which the launcher sends for a sandbox that cannot reach the service."""
    with live_flow("waiting_flow.py", "run", *SANDBOXED, env=env) as flow:
        flow.wait_for("ready")
        flow.until(lambda: recorder.heartbeats("WaitingFlow").count("start") > 1, "two heartbeats")
        flow.kill("shim", signal.SIGUSR1)
        done = flow.finish()
    assert done.returncode == 0, done.output


def test_a_service_that_restarts(env: Mapping[str, str], recorder: Recorder) -> None:
    """Guards against records that are lost, or a step that fails, while the service is away."""
    with live_flow("waiting_flow.py", "run", *SANDBOXED, env=env) as flow:
        done = end_while_away(flow, recorder, 2)
        assert done.returncode == 0, done.output
        end, start = fields(flow.directory, f"WaitingFlow/{done.run_id}", env)
    assert end == start
    assert start["attempt_ok"] == start["attempt-done"] == 1
