"""Flows over the stand-in for Daytona, while it fails in every way that it knows."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from .daytona import DaytonaServer, daytona_server
from .harness import TIMEOUT, FlowRun, place_flow, read_results, run_flow
from .live import live_directory, live_flow

pytest.importorskip("daytona", reason="the SDK is missing: pip install daytona")

CHOSEN = {
    "METAFLOW_SANDBOX_BACKEND": "daytona",
    "METAFLOW_SANDBOX_IMAGE": "test-image",
}
WIDTH, LINES = 3, 200
LINE = re.compile(r"line (\d+) of (\d+)$", re.MULTILINE)


@pytest.fixture(scope="module")
def server() -> Iterator[DaytonaServer]:
    """For all tests."""
    with daytona_server() as running:
        yield running


def settings(server: DaytonaServer) -> Mapping[str, str]:
    """What chooses it, instead of the backend of the suite."""
    return {**CHOSEN, **server.settings}


def assert_complete(run: FlowRun) -> None:
    """Every line is there, and once."""
    found = Counter(LINE.findall(run.output))
    assert found == Counter((str(number), str(body)) for body in range(WIDTH) for number in range(LINES))
    assert run.output.count("all is there") == 1


def assert_empty(server: DaytonaServer) -> None:
    """No sandbox is left, or will be."""
    deadline = time.monotonic() + TIMEOUT
    while server.sandboxes():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize(
    "faults",
    [
        {},
        {"busy": 3, "retry_after": "1"},
        {"busy": 2},
        {"limit": 2},
        {"lost_create": 2},
        {"unsteady": 3},
        {"busy_calls": 4, "retry_after": "1"},
        {"delay": 0.2, "lag": 2.5, "removal": 2.0},
    ],
    ids=lambda faults: "-".join(faults) or "none",
)
def test_faults_do_not_show(server: DaytonaServer, tmp_path: Path, faults: dict[str, Any]) -> None:
    """Guards against tasks that fail, run twice or lose a line, and sandboxes left, by Daytona's troubles."""
    flow = place_flow("lines_flow.py", tmp_path)
    before = len(server.created())
    with server.failing(**faults):
        run = run_flow(flow, "run", "--lines", str(LINES), env=settings(server))
        assert_complete(run)
        assert len(server.created()) == before + WIDTH
    assert_empty(server)


@pytest.mark.parametrize("unsteady", [0, 3])
def test_a_large_artifact(server: DaytonaServer, tmp_path: Path, unsteady: int) -> None:
    """Guards artifacts that go as files, both ways, and by the channel when their transfer fails."""
    flow = place_flow("large_flow.py", tmp_path)
    with server.failing(unsteady=unsteady):
        run = run_flow(flow, "run", "--blocks", "1", "--with", "sandbox", env=settings(server))
    assert run.returncode == 0, run.output
    assert "refused" not in run.output
    script = "from metaflow import Run, namespace\nnamespace(None)\n"
    script += f"print(Run('LargeFlow/{run.run_id}').data.same)"
    assert read_results(tmp_path, script) == "True\n"
    assert_empty(server)


@pytest.mark.parametrize("retry", [False, True], ids=["without retry", "with retry"])
def test_a_sandbox_vanishes(server: DaytonaServer, retry: bool) -> None:
    """Guards what the user is told, and that nothing runs again unless it was asked for."""
    words = ["run", "--width", "2", "--seconds", "6"]
    if retry:
        words += ["--with", "retry:times=1,minutes_between_retries=0"]
    with (
        live_directory() as root,
        live_flow("lines_flow.py", *words, root=root, env=settings(server)) as flow,
    ):
        flow.wait_for("begins", 2)
        server.ask("POST", f"/vanish/{server.sandboxes()[0]['name']}")
        run = flow.finish()
    assert (run.returncode == 0) is retry, run.output
    assert "was destroyed" in run.output
    assert "Traceback" not in run.output
    assert run.output.count("begins") == 2 + retry
    assert_empty(server)
