"""Whole flows on both backends of virtual machines, over the stand-ins."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from .harness import place_flow, read_results, run_flow
from .live import POLL, LiveFlow, live_flow
from .stand_in import StandIn

SANDBOXED = ("--with", "sandbox:memory=512")
RETRIED = ("--with", "retry:times=1,minutes_between_retries=0")
FOREVER = ("--seconds", "600")
LARGE = "large_flow.py"
PATIENCE = 60.0  # seconds: a stand-in deletes what was unpacked in each of its machines


@dataclass(frozen=True)
class Provider:
    """A stand-in that runs; ``settings`` lead a flow to it, ``task`` is all that one task asks it for.

    ``check`` is what is asked for once or twice a run: whether it answers.
    """

    stand_in: StandIn
    settings: Mapping[str, str]
    task: Mapping[str, int]
    check: str
    sandboxes: Callable[[], Collection[object]]

    def asked(self, before: Mapping[str, int]) -> dict[str, int]:
        """What it was asked for since, but for the tests' own questions."""
        now = self.stand_in.requests()
        own = ("/faults", "/requests", "/machines", "/asked")
        return {
            name: number - before.get(name, 0)
            for name, number in now.items()
            if number > before.get(name, 0) and not name.endswith(own)
        }


@contextlib.contextmanager
def boxlite() -> Iterator[Provider]:
    """A server of boxes."""
    pytest.importorskip("boxlite", reason="the SDK is missing: pip install boxlite")
    from .boxlite import boxlite_server

    box = "/v1/boxes/{box}"
    task = {
        "POST /v1/boxes": 1,
        f"POST {box}/start": 1,
        f"GET {box}": 2,
        f"POST {box}/exec": 1,
        f"GET {box}/executions/{{execution}}/attach": 1,
        f"DELETE {box}": 1,
    }
    with boxlite_server() as server:
        yield Provider(
            server,
            {**server.settings, "METAFLOW_SANDBOX_BACKEND": "boxlite"},
            task,
            "GET /v1/boxes",
            server.boxes,
        )


@contextlib.contextmanager
def microsandbox() -> Iterator[Provider]:
    """A cloud of sandboxes."""
    pytest.importorskip("microsandbox", reason="the SDK is missing: pip install microsandbox")
    from .microsandboxes import stand_in

    task = {
        "POST /v1/sandboxes": 1,
        "GET /v1/sandboxes/{id}/agent": 1,
        "core.exec.request": 1,
        "DELETE /v1/sandboxes/by-name/{name}": 1,
    }
    with stand_in() as cloud:
        chosen = {"METAFLOW_SANDBOX_BACKEND": "microsandbox", "METAFLOW_SANDBOX_IMAGE": cloud.image}
        yield Provider(cloud, {**cloud.settings, **chosen}, task, "GET /v1/sandboxes", cloud.machines)


PROVIDERS: Mapping[str, Callable[[], contextlib.AbstractContextManager[Provider]]] = {
    "boxlite": boxlite,
    "microsandbox": microsandbox,
}


@pytest.fixture(scope="module", params=PROVIDERS)
def provider(request: pytest.FixtureRequest) -> Iterator[Provider]:
    """Both, one after the other."""
    with PROVIDERS[request.param]() as running:
        yield running


def test_a_task_boots_once_and_runs_one_command(provider: Provider, tmp_path: Path) -> None:
    """Guards the time of a task: no second boot, no pull, no installation, no command beside the step's."""
    flow, before = place_flow("life_flow.py", tmp_path), provider.stand_in.requests()
    run_flow(flow, "run", "--width", "3", "--with", "sandbox", env=provider.settings)
    tasks = 3 + 3  # the start, three bodies, the join and the end
    asked = provider.asked(before)
    assert asked.pop(provider.check, 0) < tasks
    assert asked == {name: number * tasks for name, number in provider.task.items()}


def assert_gone(provider: Provider, flow: LiveFlow, sandboxes: set[str]) -> None:
    """Neither this machine nor the provider has anything left of the run."""
    deadline = time.monotonic() + PATIENCE
    while left := [*flow.leftovers(sandboxes), *provider.sandboxes()]:
        assert time.monotonic() < deadline, left
        time.sleep(POLL)


def test_twenty_at_once_survive_the_supervisor(provider: Provider) -> None:
    """Guards one runtime under many tasks, and against machines that nobody ends when it is killed."""
    arguments = ("run", "--width", "20", "--max-workers", "20", *FOREVER, *SANDBOXED, *RETRIED)
    with live_flow("life_flow.py", *arguments, env=provider.settings) as flow:
        flow.wait_for("runs as attempt 0", 20)
        sandboxes = flow.sandboxes()
        assert len(provider.sandboxes()) == 20
        flow.kill("supervisor")
        run = flow.finish()
        assert_gone(provider, flow, sandboxes)
    assert run.returncode == 0, run.output
    assert run.output.count("runs as attempt 0") == run.output.count("runs as attempt 1") == 20
    assert f"results {[10 * number for number in range(20)]}" in run.output


def test_killed_scheduler_leaves_nothing(provider: Provider) -> None:
    """Guards against machines that are paid for when the run itself is gone."""
    arguments = ("run", "--width", "3", *FOREVER, *SANDBOXED)
    with live_flow("life_flow.py", *arguments, env=provider.settings) as flow:
        flow.wait_for("runs as attempt 0", 3)
        sandboxes = flow.sandboxes()
        assert len(provider.sandboxes()) == 3
        flow.kill("scheduler")
        run = flow.finish()
        assert_gone(provider, flow, sandboxes)
    assert run.returncode == -signal.SIGKILL


def test_two_runs_at_once(provider: Provider, tmp_path: Path) -> None:
    """Guards runs against each other: names, records and machines of one are none of the other's."""

    def run(name: str) -> str:
        flow = place_flow("life_flow.py", tmp_path / name)
        return run_flow(flow, "run", "--width", "3", *SANDBOXED, env=provider.settings).output

    with ThreadPoolExecutor(2) as pool:
        outputs = list(pool.map(run, ("one", "two")))
    assert ["results [0, 10, 20]" in output for output in outputs] == [True, True]
    assert not provider.sandboxes()


def test_a_hundred_megabytes_of_artifact(provider: Provider, tmp_path: Path) -> None:
    """Guards large binary artifacts on both ways through text, credits and frames, as a flow has them."""
    settings = {**provider.settings, "METAFLOW_SANDBOX_MEMORY": "2048"}
    run = run_flow(place_flow(LARGE, tmp_path), "run", "--blocks", "2", "--with", "sandbox", env=settings)
    script = f"""
import hashlib
from metaflow import Flow, namespace
namespace(None)
made, read = (Flow("LargeFlow")["{run.run_id}"][step].task.data for step in ("start", "end"))
print(read.same, read.size, hashlib.sha1(made.large).hexdigest() == made.digest)
"""
    assert read_results(tmp_path, script, settings).split() == ["True", str(128 << 20), "True"]
