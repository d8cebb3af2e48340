"""packages=, requirements= and python= in flows, with packages from PyPI and no network inside."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from metaflow_extensions.sandbox.packages.uv import find_uv

from .both_ways import Recorded, record
from .harness import FlowRun
from .packages import BACKENDS, INSTALLS, SERVICES, Place, backend_place


@pytest.fixture(scope="module", autouse=True)
def reachable() -> None:
    """The index that uv asks."""
    try:
        urllib.request.urlopen("https://pypi.org/simple/pip/", timeout=20).close()
    except (urllib.error.URLError, TimeoutError) as error:
        pytest.skip(f"the package index can't be reached: {error}")


@pytest.fixture(scope="module", params=BACKENDS)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """One for each way into a sandbox."""
    with backend_place(request, tmp_path_factory.mktemp(request.param), request.param) as found:
        yield found


@pytest.fixture(scope="module")
def failed(place: Place) -> FlowRun:
    """PackagesFlow with an empty cache, whose last step fails."""
    return place.run("run", FAIL_AT_END="yes")


@pytest.fixture(scope="module")
def resumed(place: Place, failed: FlowRun) -> Recorded:
    """The same run, resumed without the failure."""
    return record(place.run("resume"), "PackagesFlow")


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


OTHER = "3.12" if sys.version_info[:2] != (3, 12) else "3.13"


def has_other() -> bool:
    """Whether this machine has another Python."""
    command = [find_uv(), "python", "find", "--system", "--no-python-downloads", "--no-project", OTHER]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not has_other(), reason=f"there is no Python {OTHER} on this machine")
def test_another_python_of_this_machine(tmp_path: Path) -> None:
    """Guards python= where the launcher's own would be used: Metaflow itself runs in the other one, too."""
    place = Place(tmp_path, {"METAFLOW_SANDBOX_CACHE": str(tmp_path / "cache")})
    env = {"METAFLOW_SANDBOX_PYTHON": OTHER, "METAFLOW_SANDBOX_PACKAGES": '{"numpy": ""}'}
    recorded = record(place.run("run", "--with", "sandbox", flow="small_flow.py", **env), "SmallFlow")
    for task in recorded.tasks.values():
        assert task["metadata"]["python_version"].startswith(OTHER)
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


def test_project_of_uv(place: Place) -> None:
    """Guards --environment=uv: an image gets what uv.lock says; beside the launcher's Python it is there."""
    flow = place.directory / "flow"
    flow.mkdir(exist_ok=True)
    (flow / "pyproject.toml").write_text(PROJECT)
    subprocess.run([find_uv(), "lock", "--quiet"], cwd=flow, check=True)
    try:
        done = place.run("--environment=uv", "run", "--with", "sandbox", flow="small_flow.py")
    finally:
        for name in ("pyproject.toml", "uv.lock"):
            (flow / name).unlink()
    recorded = record(done, "SmallFlow")
    locks = {task["metadata"].get("sandbox-lock", "") for task in recorded.tasks.values()}
    hosted = place.settings["METAFLOW_SANDBOX_BACKEND"] == "bubblewrap"
    assert all(('"six"' in lock) != hosted and '"metaflow"' not in lock for lock in locks)


@pytest.mark.parametrize("service", SERVICES)
def test_services_are_sent_an_archive(request: pytest.FixtureRequest, tmp_path: Path, service: str) -> None:
    """Guards backends of the cloud, on their stand-ins: one environment for the tasks, packed once."""
    packages = {"METAFLOW_SANDBOX_PACKAGES": '{"six": "1.17.0"}'}
    with backend_place(request, tmp_path, service) as place:
        done = place.run("run", "--with", "sandbox", flow="small_flow.py", **packages)
        assert done.output.count(INSTALLS) == 1
        recorded = record(done, "SmallFlow")
    assert all('"six"' in task["metadata"]["sandbox-lock"] for task in recorded.tasks.values())
    assert len([*(place.cache.directory / "environments").glob("*.tar.gz")]) == 1
