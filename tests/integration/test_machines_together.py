"""Whole flows on both backends of virtual machines, over the stand-ins."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from .harness import place_flow, run_flow
from .stand_in import StandIn


@dataclass(frozen=True)
class Provider:
    """A stand-in that runs; ``settings`` lead a flow to it, ``task`` is all that one task asks it for.

    ``of_run`` is what is asked for once a run: whether it answers, at most.
    """

    stand_in: StandIn
    settings: Mapping[str, str]
    task: Mapping[str, int]
    of_run: Mapping[str, int]

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
            {"GET /v1/boxes": 1, "GET /v1/config": 1},
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
        yield Provider(cloud, {**cloud.settings, **chosen}, task, {"GET /v1/sandboxes": 1})


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
    once = {name: number for name, number in asked.items() if name not in provider.of_run}
    assert once == {name: number * tasks for name, number in provider.task.items()}
    assert all(asked.get(name, 0) <= number for name, number in provider.of_run.items())
