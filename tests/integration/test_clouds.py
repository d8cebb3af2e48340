"""What a foreach and a killed launcher are to clouds: over the stand-ins for E2B and Daytona."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from metaflow_extensions.sandbox.backends import registry

from . import images
from .clouds import CLOUDS, Cloud, all_once, running_cloud
from .harness import TIMEOUT, flow_environment
from .live import live_flow

FOREVER = 600  # seconds
WIDTH, LIMIT = 100, 20
MEMORY = 15.0  # MiB of the launcher for a task that waits
WITHIN = 120.0  # seconds for a time to live that passes in five
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


@pytest.mark.wide
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


def test_a_dead_launcher_leaves_what_ends_by_itself(cloud: Cloud) -> None:
    """Guards a bill: with all that could clean up killed, labels still find the sandboxes, and they end."""
    words = ["--with", "sandbox", "--width", "3", "--max-workers", "3", "--seconds", str(FOREVER)]
    with live_flow("life_flow.py", "run", *words, env=cloud.settings) as flow:
        flow.wait_for("runs as attempt 0", 3)
        for pid in [flow.the(role).pid for role in ("warden", "reaper", "supervisor", "scheduler")]:
            os.kill(pid, signal.SIGKILL)
        run = flow.finish()
    backend = registry.load(cloud.name)
    labels = {"flow": "LifeFlow", "run": run.run_id, "step": "body"}
    found = list(backend.list(labels))
    assert len({info.labels["task"] for info in found}) == 3
    assert {info.labels.items() >= labels.items() for info in found} == {True}
    with cloud.server.failing(**cloud.hurried):
        deadline = time.monotonic() + WITHIN
        while list(backend.list(labels)):
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_a_key_that_expires_on_the_way(cloud: Cloud) -> None:
    """Guards a long run's end against retries of what can't succeed, and a message without the setting."""
    key = f"{cloud.name.upper()}_API_KEY"
    words = ["--with", "sandbox", "--width", "2", "--max-workers", "1", "--seconds", "2"]
    with live_flow("life_flow.py", "run", *words, env=cloud.settings) as flow:
        flow.wait_for("Foreach yields")
        with cloud.server.failing(limit=1):
            flow.wait_for("runs as attempt 0")
            with cloud.server.failing(expired=True):
                flow.wait_for("BackendUnavailable")
        run = flow.finish()
    assert run.returncode == 1
    assert key in run.output
    assert run.output.count("BackendUnavailable") == 1
    assert "trying again" not in run.output
    assert "Traceback" not in run.output
    assert len(set(re.findall(r"body \d runs", run.output))) == 1
    backend = registry.load(cloud.name)
    for info in backend.list({}):
        backend.destroy(info.id)


def test_the_demo(tmp_path: Path) -> None:
    """Guards what somebody sees who has a clone and no account."""
    root = Path(__file__).parents[2]
    home = {"HOME": str(tmp_path), "TMPDIR": str(tmp_path), "XDG_RUNTIME_DIR": ""}
    done = subprocess.run(
        [root / "scripts" / "demo-cloud", sys.prefix],
        env=flow_environment({**home, images.CACHE: str(images.cache().parent)}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "stand-ins" in done.stdout
    assert "total 55" in done.stdout
    assert "metadata service at" in done.stdout
