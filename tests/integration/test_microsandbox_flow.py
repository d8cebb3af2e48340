"""@microsandbox on a step, as a user writes it, over the stand-in of its cloud."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .harness import place_flow, run_flow

pytest.importorskip("microsandbox", reason="the SDK is not installed: pip install microsandbox")

from .microsandboxes import StandIn, stand_in


@pytest.fixture(scope="module")
def cloud() -> Iterator[StandIn]:
    """For all tests."""
    with stand_in() as running:
        yield running


def settings(cloud: StandIn) -> dict[str, str]:
    return {**cloud.settings, "METAFLOW_SANDBOX_IMAGE": cloud.image}


def test_a_step_uses_a_secret_that_it_does_not_see(cloud: StandIn, tmp_path: Path) -> None:
    """Guards secrets= all the way: from the launcher's environment to the cloud, past step, disk and log."""
    value = f"v4lue-{os.urandom(8).hex()}"
    env = {**settings(cloud), "API_TOKEN": value}
    run = run_flow(place_flow("placeholder_flow.py", tmp_path), "run", env=env)
    (entry,) = cloud.asked()[-1]["network"]["secrets"]["entries"]
    assert (entry["env_var"], entry["value"]) == ("API_TOKEN", value)
    assert f"placeholder {entry['placeholder']}" in run.output
    assert value not in run.output
    kept = subprocess.run(["grep", "-rl", value, tmp_path], capture_output=True, text=True)
    assert (kept.returncode, kept.stdout) == (1, "")


def test_a_secret_that_the_launcher_lacks(cloud: StandIn, tmp_path: Path) -> None:
    """Guards against a step that starts, and fails an hour later for want of a value."""
    flow = place_flow("placeholder_flow.py", tmp_path)
    run = run_flow(flow, "run", env=settings(cloud), check=False)
    assert run.returncode == 1
    assert "secrets names API_TOKEN" in run.output
    assert "Task is starting" not in run.output


def test_other_backends_refuse_secrets(tmp_path: Path) -> None:
    """Guards against a value that is passed in, or dropped, where nothing can put it in on the way."""
    text = place_flow("placeholder_flow.py", tmp_path).read_text()
    flow = tmp_path / "placeholder_flow.py"
    flow.write_text(
        text.replace("microsandbox", "bubblewrap").replace(
            'network=["api.example.org"], ', 'network="host", '
        )
    )
    run = run_flow(flow, "run", env={"API_TOKEN": "value"}, check=False)
    assert run.returncode == 1
    assert "secrets=['API_TOKEN'] needs a backend with SECRETS" in run.output
