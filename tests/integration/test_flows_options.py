"""How a step gets into a sandbox, and what is on record about the sandbox that it was in."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

from .both_ways import Recorded, place, record
from .harness import run_flow

LOG_LINE = re.compile(r"\[sandbox\] bubblewrap (\S+) · isolation (\w+) · network (\w+)")
BACKEND = "metaflow_extensions.sandbox.backends.bubblewrap.backend:BubblewrapBackend"


def inside(recorded: Recorded) -> set[str]:
    """The steps that were in a sandbox."""
    return {key.partition("[")[0] for key, task in recorded.tasks.items() if "sandbox-id" in task["metadata"]}


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """OptionsFlow run as it is written, with a file that only the launcher can see."""
    directory = tmp_path_factory.mktemp("options")
    beside = directory / "beside"
    beside.write_text("the launcher's own")
    env = {"LAUNCHERS_OWN": "1", "BESIDE": str(beside)}
    flow = place("options_flow.py", directory / "flow", {})
    return record(run_flow(flow, "run", env=env), "OptionsFlow")


def test_only_the_marked_steps_are_sandboxed(options: Recorded) -> None:
    """Guards mixed flows: steps before and after a sandboxed one run as they always did."""
    assert inside(options) == {"middle", "other"}
    outside = {"guest": None, "given": None, "launchers": "1", "beside": True}
    for artifact in ("at_start", "at_end"):
        seen = ast.literal_eval(options.value("end", artifact))
        assert {name: seen[name] for name in outside} == outside


@pytest.mark.parametrize(("artifact", "given"), [("in_middle", "a value, with a comma"), ("in_other", "7")])
def test_step_sees_its_own_variables_only(options: Recorded, artifact: str, given: str) -> None:
    """Guards env=… and that nothing of the launcher's environment and files comes along."""
    seen = ast.literal_eval(options.value("end", artifact))
    assert (seen["guest"], seen["given"], seen["launchers"], seen["beside"]) == ("1", given, None, False)


def test_inside_needs_neither_requests_nor_boto3(options: Recorded) -> None:
    """Guards the bare interpreter: Metaflow's own providers would import them."""
    seen = ast.literal_eval(options.value("end", "in_middle"))
    assert (seen["requests"], seen["boto3"]) == (False, False)


def test_resources_are_merged_the_larger_wins(options: Recorded) -> None:
    """Guards @resources beside @sandbox, merged as @kubernetes merges."""
    limits = ast.literal_eval(options.value("middle", "limits"))
    assert limits["sandbox"] == {"cpu": 3.0, "memory": 2000, "disk": 300}


def test_merged_limit_is_in_force(options: Recorded) -> None:
    """Guards the way of a limit from the decorator to the sandbox: its disk is as large as asked."""
    assert int(options.value("middle", "disk")) == 300


def test_metadata_names_the_sandbox(options: Recorded) -> None:
    """Guards the fields on record of each sandboxed task, and their types."""
    metadata = options.task("middle")["metadata"]
    assert metadata["sandbox-backend"] == "bubblewrap"
    assert metadata["sandbox-isolation"] == "container"
    assert metadata["sandbox-network"] == "none"
    assert metadata["sandbox-image"] == ""
    assert metadata["sandbox-id"]
    timings = json.loads(metadata["sandbox-timings"])
    assert timings.keys() == {"queue", "open", "boot", "run", "close"}
    assert all(seconds >= 0 for seconds in timings.values())
    assert float(metadata["sandbox-peak-memory-mib"]) > 1
    assert float(metadata["sandbox-cpu-seconds"]) > 0
    assert "sandbox-refusals" not in metadata


def test_log_line_agrees_with_the_metadata(options: Recorded) -> None:
    """Guards the line that tells the user where a task runs, once in each task's log."""
    for step in ("middle", "other"):
        task = options.task(step)
        (line,) = [line for line in task["sandbox_lines"] if line.startswith("[sandbox] bubblewrap ")]
        found = LOG_LINE.match(line)
        assert found, line
        metadata = task["metadata"]
        assert found.groups() == (
            metadata["sandbox-id"],
            metadata["sandbox-isolation"],
            metadata["sandbox-network"],
        )
    assert options.task("middle")["metadata"]["sandbox-id"] != options.task("other")["metadata"]["sandbox-id"]


def test_decospecs_of_the_environment_sandbox_every_step(tmp_path: Path) -> None:
    """Guards METAFLOW_DECOSPECS, and that a decorator in the code wins over it."""
    flow = place("options_flow.py", tmp_path, {})
    env = {"METAFLOW_DECOSPECS": "sandbox:network=host", "METAFLOW_SANDBOX_ENV": '{"GIVEN": "by default"}'}
    recorded = record(run_flow(flow, "run", env=env), "OptionsFlow")
    assert inside(recorded) == {"start", "middle", "other", "join", "end"}
    networks = {step: recorded.task(step)["metadata"]["sandbox-network"] for step in inside(recorded)}
    assert networks == {"start": "host", "middle": "none", "other": "none", "join": "host", "end": "host"}
    assert ast.literal_eval(recorded.value("end", "at_start"))["given"] == "by default"
    assert ast.literal_eval(recorded.value("end", "in_middle"))["given"] == "a value, with a comma"


def test_backend_of_the_environment_is_used(tmp_path: Path) -> None:
    """Guards METAFLOW_SANDBOX_BACKEND, for steps that name no backend; an alias names one."""
    flow = place("options_flow.py", tmp_path, {})
    recorded = record(run_flow(flow, "run", env={"METAFLOW_SANDBOX_BACKEND": BACKEND}), "OptionsFlow")
    assert recorded.task("middle")["metadata"]["sandbox-backend"] == BACKEND
    assert recorded.task("other")["metadata"]["sandbox-backend"] == "bubblewrap"


@pytest.mark.parametrize("alias", ["sandbox", "bubblewrap"])
def test_with_takes_the_alias_and_its_options(tmp_path: Path, alias: str) -> None:
    """Guards --with for each name of the decorator, with an option."""
    flow = place("small_flow.py", tmp_path, {})
    recorded = record(run_flow(flow, "run", "--with", f"{alias}:disk=64,network=host"), "SmallFlow")
    assert inside(recorded) == {"start", "middle", "end"}
    assert {task["metadata"]["sandbox-network"] for task in recorded.tasks.values()} == {"host"}
