"""Flows in E2B's sandboxes while its cloud fails: the right outcome, no body twice, nothing lost or left."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from .clouds import all_once, bodies
from .e2b import KEY, E2BServer, e2b_server
from .harness import FlowRun, place_flow, read_results, run_flow
from .live import LiveFlow, live_flow
from .waiting import until

pytest.importorskip("e2b", reason="the SDK is missing: pip install e2b")

FOREVER = 600  # seconds
WITH = ("--with", "sandbox")


@pytest.fixture(scope="module")
def server() -> Iterator[E2BServer]:
    """For all tests."""
    with e2b_server() as running:
        yield running


@pytest.fixture
def env(server: E2BServer) -> Iterator[Mapping[str, str]]:
    """What leads to E2B; afterwards nothing is left there."""
    yield {**server.settings, "METAFLOW_SANDBOX_BACKEND": "e2b"}
    assert server.sandboxes() == []


def test_a_wide_foreach_waits_for_what_the_account_allows(
    server: E2BServer, env: Mapping[str, str], tmp_path: Path
) -> None:
    """Guards a foreach that is wider than the plan: the rest waits, is told why, and none fails."""
    before = len(server.asked("made"))
    flow = place_flow("life_flow.py", tmp_path)
    with server.failing(limit=3):
        run = run_flow(flow, "run", "--width", "12", "--seconds", "2", "--max-workers", "12", *WITH, env=env)
    assert all_once(run, 12), run.output
    assert "concurrent sandboxes" in run.output
    assert len(server.asked("made")) == before + 15


@pytest.mark.parametrize(
    "faults",
    [
        {"refuse": 429, "times": 3, "retry_after": 1},
        {"refuse": 429, "times": 3},
        {"refuse": 502, "times": 1},
        {"lose": 1, "lag": 2},
        {"drop_after": 20_000, "drops": 60, "lose_input": 20},
        {"drop_after": 20_000, "drops": 60, "way": "unavailable"},
        {"slow_end": 1.0, "lag": 2},
    ],
    ids=["429 with a time", "429", "502", "lost creation", "cut", "unavailable", "slow end"],
)
def test_what_passes_is_not_noticed(
    server: E2BServer, env: Mapping[str, str], tmp_path: Path, faults: dict[str, Any]
) -> None:
    """Guards a run against faults that pass: each body runs once, and all that it says arrives once."""
    flow = place_flow("life_flow.py", tmp_path)
    with server.failing(**faults):
        run = run_flow(flow, "run", "--width", "2", *WITH, env=env)
    assert all_once(run, 2), run.output
    assert KEY not in run.output
    # What was lost is looked for behind the run, too.
    until(lambda: ids(server, "made") == ids(server, "ended"), "every sandbox's end")


def ids(server: E2BServer, what: str) -> set[str]:
    """Of the sandboxes that were made, or that were ended."""
    return {request[what] for request in server.asked(what)}


@pytest.mark.parametrize("lost", [0, 1, 1000], ids=["none", "one", "all"])
def test_a_large_artifact_whose_files_are_cut_off(
    server: E2BServer, env: Mapping[str, str], tmp_path: Path, lost: int
) -> None:
    """Guards artifacts that go as files, both ways, and by the channel where that is not to be had."""
    flow = place_flow("large_flow.py", tmp_path)
    with server.failing(lose_files=lost):
        run = run_flow(flow, "run", "--blocks", "1", *WITH, env=env)
    assert run.returncode == 0, run.output
    assert "refused" not in run.output
    script = "from metaflow import Run, namespace\nnamespace(None)\n"
    script += f"print(Run('LargeFlow/{run.run_id}').data.same)"
    assert read_results(tmp_path, script) == "True\n"


def vanished(server: E2BServer, env: Mapping[str, str], *arguments: str) -> FlowRun:
    """A run whose only body loses its sandbox while it runs."""
    words = ["run", "--seconds", str(FOREVER), *WITH, *arguments]
    with live_flow("life_flow.py", *words, env=env) as flow:
        flow.wait_for("body 0 runs as attempt 0")
        server.vanish()
        return finished(flow)


def finished(flow: LiveFlow) -> FlowRun:
    """How it ended."""
    run = flow.finish()
    assert "Traceback" not in run.output
    return run


def test_a_lost_sandbox_is_a_failed_task(server: E2BServer, env: Mapping[str, str]) -> None:
    """Guards against a body that is run again by whoever does not know what it did."""
    run = vanished(server, env)
    assert run.returncode == 1
    assert bodies(run) == ["body 0 runs as attempt 0"]
    assert "SandboxLost" in run.output


def test_retry_runs_a_lost_body_again(server: E2BServer, env: Mapping[str, str]) -> None:
    """Guards the way in which a user says that a body may run twice."""
    run = vanished(server, env, "--with", "retry:times=1,minutes_between_retries=0")
    assert run.returncode == 0, run.output
    assert bodies(run) == ["body 0 runs as attempt 0", "body 0 runs as attempt 1"]


def test_a_cloud_that_is_gone_at_the_end(env: Mapping[str, str]) -> None:
    """Guards the end of a run against a cleaning up that fails, of which the user has to know."""
    with (
        e2b_server() as other,
        live_flow(
            "life_flow.py", "run", "--seconds", str(FOREVER), *WITH, env={**env, **other.settings}
        ) as flow,
    ):
        flow.wait_for("body 0 runs as attempt 0")
        other.process.kill()
        flow.interrupt()
        run = finished(flow)
    assert run.returncode != 0
    assert bodies(run) == ["body 0 runs as attempt 0"]
    assert "What is left on e2b of this run" in run.output


@pytest.mark.parametrize(
    ("name", "value"),
    [("E2B_API_KEY", "e2b_of-nobody"), ("E2B_API_KEY", ""), ("E2B_API_URL", "http://127.0.0.1:9")],
    ids=["wrong key", "no key", "nobody there"],
)
def test_a_wrong_setting_is_said_before_anything_runs(
    server: E2BServer, env: Mapping[str, str], tmp_path: Path, name: str, value: str
) -> None:
    """Guards against a run that starts, retries and fails for a setting that is wrong from the beginning."""
    before = len(server.asked("sandbox"))
    flow = place_flow("life_flow.py", tmp_path)
    run = run_flow(flow, "run", *WITH, env={**env, name: value}, check=False)
    assert run.returncode != 0
    assert name in run.output
    assert "Task is starting" not in run.output
    assert "Traceback" not in run.output
    assert len(server.asked("sandbox")) == before
