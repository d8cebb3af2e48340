"""Metaflow's own environments in sandboxes: @conda and @pypi, offline inside and made once.

No conda channel is asked: micromamba is a stand-in (see micromamba.py) with a channel of the tests.
Metaflow's own code, its pip and the packages from PyPI are real.
"""

from __future__ import annotations

import ast
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .both_ways import Recorded, record
from .harness import FlowRun
from .micromamba import channel, stand_in
from .once import made_by_one, session_directory
from .packages import BACKENDS, IMAGES_PYTHON, INSTALLS, Place, backend_place

VERSION = ".".join(map(str, sys.version_info[:3]))
ENVIRONMENT = ("--environment=conda",)


@pytest.fixture(scope="module", params=BACKENDS)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """One for each way into a sandbox, with micromamba and a channel."""
    if request.param != "bubblewrap" and not VERSION.startswith(IMAGES_PYTHON):
        pytest.skip("the stand-in's Python is the one that it runs in, and the image has another")
    directory = session_directory(tmp_path_factory, f"conda-{request.param}")
    demos = {f"demo-{number}.0": {"demo/__init__.py": f"VERSION = {number}"} for number in (1, 2)}
    packages = {**demos, "requests-2.32.0": {"requests/__init__.py": ""}}
    programs = made_by_one(directory, "programs", lambda: str(stand_in(directory)))
    channels = made_by_one(directory, "channel", lambda: str(channel(directory, VERSION, packages)))
    own = {
        "PATH": os.pathsep.join([programs, str(Path(sys.executable).parent), os.environ["PATH"]]),
        "CONDA_CHANNELS": channels,
        "MAMBA_ROOT_PREFIX": str(directory / "mamba"),
    }
    with backend_place(request, directory, request.param, own) as found:
        yield found


@pytest.fixture(scope="module")
def failed(place: Place) -> FlowRun:
    """CondaFlow with an empty cache, whose last step fails."""
    return made_by_one(
        place.directory,
        "failed",
        lambda: place.run(*ENVIRONMENT, "run", flow="conda_flow.py", FAIL_AT_END="yes"),
    )


@pytest.fixture(scope="module")
def resumed(place: Place, failed: FlowRun) -> Recorded:
    """The same run, resumed without the failure."""
    return made_by_one(
        place.directory,
        "resumed",
        lambda: record(place.run(*ENVIRONMENT, "resume", flow="conda_flow.py"), "CondaFlow"),
    )


def test_each_environment_is_made_once(failed: FlowRun) -> None:
    """Guards a foreach of 20 with one environment: three for 23 tasks, and nothing is said besides."""
    assert failed.output.count(INSTALLS) == 3, failed.output
    assert failed.output.count("Creating local datastore") == 1  # the run's own


def test_two_versions_of_one_package(resumed: Recorded) -> None:
    """Guards @conda on two steps."""
    assert [resumed.value(step, "version") for step in ("one", "two")] == ["1", "2"]
    assert resumed.value("join", "versions") == "[2]"


def test_packages_of_pypi(resumed: Recorded) -> None:
    """Guards @pypi: what Metaflow's own pip has fetched is installed inside, commands included."""
    assert resumed.value("join", "total") == "10"
    assert "Pygments version 2.18.0" in resumed.value("join", "command")


def test_the_environment_is_inside(resumed: Recorded) -> None:
    """Guards where a step runs: in the sandbox's copy of the environment, not in the launcher's."""
    for step in ("one", "two", "join"):
        seen = ast.literal_eval(resumed.value(step, "seen"))
        assert seen["inside"] == "1"
        assert "/work/metaflow/linux-" in seen["prefix"]
    assert ast.literal_eval(resumed.value("one", "at_start"))["inside"] is None


def test_client_knows_the_environment(resumed: Recorded) -> None:
    """Guards what Metaflow itself records, from which the Client tells of a task's packages."""
    metadata = resumed.task("one")["metadata"]
    assert metadata["conda_env_prefix"].startswith("metaflow/linux-")
    assert "demo-1.0-0" in json.loads(metadata["sandbox-lock"])["packages"]


def test_resume_makes_nothing_anew(resumed: Recorded) -> None:
    """Guards resume, and a second run: what was made is found."""
    assert INSTALLS not in resumed.process.output
    assert resumed.value("end", "origin") == "'<another run>'"


def test_package_that_is_not_there(place: Place) -> None:
    """Guards Metaflow's own message, which comes before any sandbox."""
    flow = place.directory / "absent" / "absent_flow.py"
    flow.parent.mkdir()
    text = (Path(__file__).parent / "flows" / "conda_flow.py").read_text()
    flow.write_text(text.replace('"demo": "1.0"', '"demo": "9.0"'))
    done = place.run_script(flow, *ENVIRONMENT, "run")
    assert done.returncode != 0
    assert "nothing provides requested demo==9.0" in done.output
