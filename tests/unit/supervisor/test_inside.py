"""What a sandbox is shown and told to start: nothing of the launcher's that is not meant for it."""

from __future__ import annotations

import dataclasses
from pathlib import Path, PurePosixPath

import pytest

from metaflow_extensions.sandbox.backends.interface import Mount, SandboxSpec
from metaflow_extensions.sandbox.relay.policy import TaskIdentity
from metaflow_extensions.sandbox.supervisor.inside import guest_command, sandbox_spec
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
    spec=SandboxSpec(labels={"flow": "Flow"}, mounts=[Mount(Path("/data"), PurePosixPath("/data"))]),
    env={"NAME": "value"},
    inputs=[],
    storages={},
)


def test_the_script_is_named_as_it_is_inside(run: RunSettings) -> None:
    """Guards against a launcher's path of the script, which leads nowhere inside."""
    command = guest_command(run, TASK, ARGV)
    assert list(command.argv[command.argv.index("--") + 1 :]) == ["python", "-u", "flow.py", *ARGV[3:]]
    assert command.env == {
        "NAME": "value",
        "METAFLOW_SANDBOX_RELAY": "unix:/run/metaflow-sandbox/relay",
    }


def test_executable_runs_guest_and_step(run: RunSettings) -> None:
    """Guards executable=, which stands for both interpreters inside."""
    command = guest_command(run, dataclasses.replace(TASK, executable="/opt/python"), ARGV)
    assert command.argv[0] == "/opt/python"
    assert command.argv[command.argv.index("--") + 1] == "/opt/python"


def test_files_of_options_are_shown_and_renamed(run: RunSettings, tmp_path: Path) -> None:
    """Guards files that Metaflow names on the command line: a copy is shown, its place inside is named."""
    config = tmp_path / "tmpconfig"
    config.write_text("{}")
    argv = [*ARGV, "--local-config-file", str(config)]
    spec = sandbox_spec(run, TASK, argv, Path("/code"), tmp_path)
    shown = {str(mount.target): mount for mount in spec.mounts}
    assert shown["/run/metaflow-sandbox/config.json"].source.read_text() == "{}"
    assert guest_command(run, TASK, argv).argv[-1] == "/run/metaflow-sandbox/config.json"


def test_only_the_relay_is_writable(run: RunSettings, tmp_path: Path) -> None:
    """Guards the code and the user's mounts, which are read-only, and the label that the reaper looks for."""
    spec = sandbox_spec(run, TASK, ARGV, Path("/code"), tmp_path)
    assert {str(mount.target): mount.read_only for mount in spec.mounts} == {
        "/data": True,
        "/run/metaflow-sandbox/code": True,
        "/run/metaflow-sandbox/relay": False,
    }
    assert spec.labels == {"flow": "Flow", "supervisor": "metaflow-sandbox-run-x"}
