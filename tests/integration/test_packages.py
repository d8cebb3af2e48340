"""packages=, requirements= and python= in flows, with packages from PyPI and no network inside."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from metaflow_extensions.sandbox.errors import PackagesFailed
from metaflow_extensions.sandbox.packages.uv import ask, find_uv

from .both_ways import Recorded, record
from .harness import FlowRun
from .once import made_by_one, session_directory
from .packages import BACKENDS, INSTALLS, SERVICES, Place, backend_place


@pytest.fixture(scope="module", autouse=True)
def reachable() -> None:
    """The index that uv asks."""
    try:
        ask("pip", "compile", "--quiet", "-", given="six")
    except PackagesFailed as error:
        pytest.skip(f"the package index can't be reached: {error}")


@pytest.fixture(scope="module", params=BACKENDS)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """One for each way into a sandbox."""
    directory = session_directory(tmp_path_factory, f"packages-{request.param}")
    with backend_place(request, directory, request.param) as found:
        yield found


@pytest.fixture(scope="module")
def failed(place: Place) -> FlowRun:
    """PackagesFlow with an empty cache, whose last step fails."""
    return made_by_one(place.directory, "failed", lambda: place.run("run", FAIL_AT_END="yes"))


@pytest.fixture(scope="module")
def resumed(place: Place, failed: FlowRun) -> Recorded:
    """The same run, resumed without the failure."""
    return made_by_one(place.directory, "resumed", lambda: record(place.run("resume"), "PackagesFlow"))


def seen(recorded: Recorded, step: str) -> Mapping[str, Any]:
    """What a step found."""
    found: Mapping[str, Any] = ast.literal_eval(recorded.value(step, "seen"))
    return found


def test_an_environment_is_made_once(failed: FlowRun, place: Place) -> None:
    """Guards a foreach of 20 and two steps with the same packages: one build, shared."""
    assert failed.output.count(INSTALLS) == 2, failed.output
    assert sum(entry.kind == "environment" for entry in place.cache.entries()) == 2


def test_each_step_has_its_own_versions(resumed: Recorded) -> None:
    """Guards two versions of one package in one flow, and that nothing of the launcher's comes along."""
    frame, tool = seen(resumed, "frame"), seen(resumed, "tool")
    assert frame["packages"].items() >= {"numpy": "1.26.4", "pandas": "2.2.3"}.items()
    assert tool["packages"].items() >= {"numpy": "2.1.3", "black": "24.10.0"}.items()
    for found in (frame, tool):
        assert not {"pandas", "black"} <= {*found["packages"]}
        assert not {"pytest", "boto3"} & {*found["packages"]}
        assert not found["boto3"]
    assert resumed.value("frame", "total") == "10"
    assert resumed.value("frame", "compiled") == "True"


def test_commands_are_on_the_path(resumed: Recorded) -> None:
    """Guards packages with console scripts."""
    assert "black, 24.10.0" in resumed.value("tool", "version")
    assert resumed.value("tool", "where").strip("'").endswith("/env/bin/black")


def test_there_is_no_network_inside(resumed: Recorded) -> None:
    """Guards "offline": neither the step nor what installs needs one."""
    assert not seen(resumed, "frame")["online"]
    assert resumed.task("tool")["metadata"]["sandbox-network"] == "none"


def test_foreach_and_plain_steps_go_together(resumed: Recorded) -> None:
    """Guards mixed flows: steps without packages run as they always did."""
    assert resumed.value("join", "squares") == str([number**2 for number in range(20)])
    assert "sandbox-environment" not in resumed.task("join")["metadata"]


def test_resume_makes_nothing_anew(resumed: Recorded) -> None:
    """Guards resume, and a second run: what was made is found."""
    assert INSTALLS not in resumed.process.output
    assert resumed.value("end", "origin") == "'<another run>'"


def test_second_run_makes_nothing_anew(place: Place, failed: FlowRun) -> None:
    """Guards "built once" between runs."""
    assert INSTALLS not in place.run("run", "--width", "1").output


def test_lock_is_on_record(resumed: Recorded) -> None:
    """Guards the metadata: what exactly the step ran with, so that it can be made again."""
    metadata = resumed.task("tool")["metadata"]
    lock = json.loads(metadata["sandbox-lock"])
    assert lock["packages"]["black"][0] == "24.10.0"
    assert all(digest.startswith("sha256:") for _, digest in lock["packages"].values())
    assert metadata["sandbox-environment"]


def another_python() -> str | None:
    """A version that this machine has, beside the one that runs the tests."""
    for minor in (10, 11, 12, 13):
        with contextlib.suppress(PackagesFailed):
            if minor != sys.version_info[1]:
                ask("python", "find", "--system", "--no-python-downloads", "--no-project", f"3.{minor}")
                return f"3.{minor}"
    return None


def test_another_python_of_this_machine(tmp_path: Path) -> None:
    """Guards python= where the launcher's own would be used: Metaflow itself runs in the other one, too."""
    other = another_python()
    if other is None:
        pytest.skip("there is one version of Python on PATH")
    place = Place(tmp_path, {"METAFLOW_SANDBOX_CACHE": str(tmp_path / "cache")})
    env = {"METAFLOW_SANDBOX_PYTHON": other, "METAFLOW_SANDBOX_PACKAGES": '{"numpy": ""}'}
    recorded = record(place.run("run", "--with", "sandbox", flow="small_flow.py", **env), "SmallFlow")
    for task in recorded.tasks.values():
        assert task["metadata"]["python_version"].startswith(other)
        assert '"numpy"' in task["metadata"]["sandbox-lock"]


def test_requirements_file(tmp_path: Path) -> None:
    """Guards requirements=, beside the flow, with hashes and comments as pip reads them."""
    place = Place(tmp_path, {"METAFLOW_SANDBOX_CACHE": str(tmp_path / "cache")})
    (tmp_path / "flow").mkdir()
    (tmp_path / "flow" / "needed.txt").write_text("# what it takes\nsix==1.17.0  # and no more\n")
    env = {"METAFLOW_SANDBOX_REQUIREMENTS": "needed.txt"}
    recorded = record(place.run("run", "--with", "sandbox", flow="small_flow.py", **env), "SmallFlow")
    (lock,) = {task["metadata"]["sandbox-lock"] for task in recorded.tasks.values()}
    assert {name: version for name, (version, _) in json.loads(lock)["packages"].items()} == {"six": "1.17.0"}


PROJECT = """
[project]
name = "of-the-tests"
version = "1.0"
requires-python = ">=3.10"
dependencies = ["six==1.17.0", "metaflow>=2"]
"""


def test_project_of_uv(place: Place, tmp_path: Path) -> None:
    """Guards --environment=uv: an image gets what uv.lock says; beside the launcher's Python it is there."""
    flow = tmp_path / "flow"
    flow.mkdir()
    (flow / "pyproject.toml").write_text(PROJECT)
    subprocess.run([find_uv(), "lock", "--quiet"], cwd=flow, check=True)
    settings = {**place.settings, "METAFLOW_SANDBOX_CACHE": str(tmp_path / "cache")}
    mine = dataclasses.replace(place, directory=tmp_path, settings=settings)
    recorded = record(
        mine.run("--environment=uv", "run", "--with", "sandbox", flow="small_flow.py"), "SmallFlow"
    )
    locks = {task["metadata"].get("sandbox-lock", "") for task in recorded.tasks.values()}
    hosted = place.settings["METAFLOW_SANDBOX_BACKEND"] == "bubblewrap"
    assert all(('"six"' in lock) != hosted and '"metaflow"' not in lock for lock in locks)


@pytest.mark.parametrize("service", SERVICES)
def test_services_make_sandboxes_with_packages(
    request: pytest.FixtureRequest, tmp_path: Path, service: str
) -> None:
    """Guards backends of the cloud, on their stand-ins: one environment, in what the tasks are made of."""
    asked = {
        "METAFLOW_SANDBOX_PACKAGES": '{"six": "1.17.0"}',
        "METAFLOW_SANDBOX_EVENTS": str(tmp_path / "events"),
    }
    with backend_place(request, tmp_path, service) as place:
        done = place.run("run", "--with", "sandbox", flow="small_flow.py", **asked)
        assert done.output.count(INSTALLS) == 1
        recorded = record(done, "SmallFlow")
    assert all('"six"' in task["metadata"]["sandbox-lock"] for task in recorded.tasks.values())
    assert len([*(place.cache.directory / "environments").glob("*.tar.gz")]) == 1
    assert done.output.count("with the step's packages") == 1
    # The sandbox in which it was made is none of a task's.
    events = [json.loads(line)["event"] for line in (tmp_path / "events").read_text().splitlines()]
    assert events.count("sandbox_opening") == events.count("sandbox_opened") == 3
