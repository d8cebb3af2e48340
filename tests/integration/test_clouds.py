"""What a foreach and a killed launcher are to clouds: over the stand-ins for E2B and Daytona."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest

from .clouds import CLOUDS, Cloud, all_once, running_cloud
from .live import live_flow

WIDTH, LIMIT = 100, 20
MEMORY = 15.0  # MiB of the launcher for a task that waits
WAITING = re.compile(r"\d+ wait for a sandbox of \w+: \d+ run, and it says: .*(concurrent|limit)")


@pytest.fixture(params=CLOUDS)
def cloud(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    """Each of them, which this process can ask, too; with nothing left in it."""
    pytest.importorskip(request.param, reason=f"the SDK is missing: pip install {request.param}")
    with running_cloud(request.param) as running:
        for name, value in running.settings.items():
            monkeypatch.setenv(name, value)
        yield running
        assert not running.server.sandboxes()


@pytest.mark.timeout(900)
def test_a_hundred_tasks_where_twenty_may_run(cloud: Cloud) -> None:
    """Guards a wide foreach: all wait for their turn, know why, cost the launcher little, and run once."""
    words = ["--with", "sandbox", "--width", str(WIDTH), "--max-workers", str(WIDTH)]
    at_once, each = 0, 0.0
    with (
        cloud.server.failing(limit=LIMIT),
        live_flow("life_flow.py", "run", *words, env=cloud.settings) as flow,
    ):
        while flow.process.poll() is None:
            launcher = [process for process in flow.processes() if process.pid != flow.process.pid]
            tasks = sum(process.runs("supervisor/shim.py") for process in launcher)
            if tasks > at_once:
                at_once, each = tasks, sum(process.memory for process in launcher) / tasks
            time.sleep(1.0)
        run = flow.finish()
        most = cloud.server.most()
    assert all_once(run, WIDTH), run.output
    assert WAITING.search(run.output), run.output
    assert "trying again" not in run.output
    assert most == LIMIT
    assert at_once > WIDTH / 2
    assert each < MEMORY
