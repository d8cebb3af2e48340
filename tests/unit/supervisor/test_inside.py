"""What a sandbox is shown and told to start: nothing of the launcher's that is not meant for it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from metaflow_extensions.sandbox.backends.interface import PythonEnvironment, SandboxSpec
from metaflow_extensions.sandbox.relay.policy import TaskIdentity
from metaflow_extensions.sandbox.supervisor.inside import files_of, step_variables, step_words
from metaflow_extensions.sandbox.supervisor.protocol import RunSettings, TaskSettings

ARGV = ["python", "-u", "/flows/flow.py", "--quiet", "step", "start"]


@pytest.fixture
def run(tmp_path: Path) -> RunSettings:
    """A run of /flows/flow.py."""
    return RunSettings(
        flow="Flow",
        run="1",
        script="/flows/flow.py",
        directory=str(tmp_path / "metaflow-sandbox-run-x"),
        control=-1,
        sys_path=[],
        metadata="local",
        local_root="",
        datastore="local@/store",
    )


TASK = TaskSettings(
    identity=TaskIdentity("Flow", "1", "start", "2", 0),
    backend="bubblewrap",
    spec=SandboxSpec(python=PythonEnvironment(Path("/venv/bin/python"))),
    env={"NAME": "value"},
    inputs=[],
    storages={},
)


IMAGE = dataclasses.replace(TASK, spec=SandboxSpec(image="python"))


def test_the_script_is_named_as_it_is_inside(run: RunSettings) -> None:
    """Guards against a launcher's path of the script, which leads nowhere inside."""
    assert step_words(run, TASK, ARGV) == ["python", "-u", "flow.py", *ARGV[3:]]


def test_images_have_a_python_of_their_own(run: RunSettings) -> None:
    """Guards against the launcher's interpreter and search path where its environment is not visible."""
    assert step_words(run, IMAGE, ["/venv/bin/python", *ARGV[1:]])[0] == "python3"
    given = dataclasses.replace(IMAGE, env={"PYTHONPATH": "/own"})
    assert step_variables(IMAGE)["PYTHONPATH"] == "/run/metaflow-sandbox/lib"
    assert step_variables(given)["PYTHONPATH"] == "/run/metaflow-sandbox/lib:/own"
    assert step_variables(TASK) == {
        "NAME": "value",
        "METAFLOW_SANDBOX_RELAY": "unix:/run/metaflow-sandbox/relay",
    }


def test_executable_wins(run: RunSettings) -> None:
    """Guards executable=, which stands for the interpreter inside."""
    for task in (TASK, IMAGE):
        assert step_words(run, dataclasses.replace(task, executable="/opt/python"), ARGV)[0] == "/opt/python"


def test_files_of_options_are_renamed(run: RunSettings) -> None:
    """Guards files that Metaflow names on the command line: their place inside is named."""
    argv = [*ARGV, "--local-config-file", "/tmp/config"]
    assert files_of(argv) == {"config.json": Path("/tmp/config")}
    assert step_words(run, TASK, argv)[-1] == "/run/metaflow-sandbox/config.json"
