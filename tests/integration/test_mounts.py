"""mounts= and METAFLOW_SANDBOX_UPLOADS in a flow, on backends that have mounts."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from .both_ways import record
from .harness import place_flow, run_flow


@pytest.fixture(params=["bubblewrap", "podman"])
def backend(request: pytest.FixtureRequest) -> Mapping[str, str]:
    """The settings that choose a backend."""
    if request.param == "bubblewrap":
        return {"METAFLOW_SANDBOX_BACKEND": "bubblewrap"}
    service = request.getfixturevalue("podman")
    return {
        "METAFLOW_SANDBOX_BACKEND": "podman",
        "METAFLOW_SANDBOX_IMAGE": service.IMAGE,
        "CONTAINER_HOST": service.url,
    }


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    """A directory with a file, a file of its own, and a directory that anyone may write to."""
    for name in ("models", "out"):
        (tmp_path / name).mkdir()
    (tmp_path / "models" / "weights").write_text("of a model")
    (tmp_path / "tool").write_text("#!/bin/sh")
    (tmp_path / "out").chmod(0o777)
    yield tmp_path


def run(data: Path, settings: Mapping[str, str], **places: Any) -> Mapping[str, Any]:
    """The values of MountsFlow's only sandboxed step."""
    env = {name.upper(): ",".join(value) for name, value in places.items()}
    flow = place_flow("mounts_flow.py", data / "flow")
    settings = {**settings, "METAFLOW_SANDBOX_ENV": json.dumps({"READ": "", "WRITE": "", **env})}
    recorded = record(run_flow(flow, "run", env=settings), "MountsFlow")
    return {name: ast.literal_eval(recorded.value("start", name)) for name in ("read", "runs", "written")}


def test_mounts_are_read_only_unless_asked(backend: Mapping[str, str], data: Path) -> None:
    """Guards the launcher's files: one that is read can't be changed, and rw is what it says."""
    mounts = [f"{data}/models:/mnt/models", {"local": f"{data}/out", "remote": "/mnt/out", "mode": "rw"}]
    settings = {**backend, "METAFLOW_SANDBOX_MOUNTS": json.dumps(mounts)}
    seen = run(data, settings, read=["/mnt/models/weights"], write=["/mnt/models/weights", "/mnt/out/result"])
    assert seen["read"] == {"/mnt/models/weights": "of a model"}
    assert seen["written"] == {"/mnt/models/weights": False, "/mnt/out/result": True}
    assert (data / "models" / "weights").read_text() == "of a model"
    assert (data / "out" / "result").read_text() == "from inside"


def test_uploads_are_copied_in(backend: Mapping[str, str], data: Path) -> None:
    """Guards METAFLOW_SANDBOX_UPLOADS: the content, the permission to run it, and the launcher's own file."""
    uploads = [
        {"local": f"{data}/tool", "remote": "/opt/tool", "mode": "0755"},
        {"local": f"{data}/models/weights", "remote": "/opt/models/weights"},
    ]
    settings = {**backend, "METAFLOW_SANDBOX_UPLOADS": json.dumps(uploads)}
    places = ["/opt/tool", "/opt/models/weights"]
    seen = run(data, settings, read=places, write=["/opt/tool"])
    assert seen["read"] == {"/opt/tool": "#!/bin/sh", "/opt/models/weights": "of a model"}
    assert seen["runs"] == {"/opt/tool": True, "/opt/models/weights": False}
    assert (data / "tool").read_text() == "#!/bin/sh"


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"METAFLOW_SANDBOX_MOUNTS": "models:/mnt"}, "write the whole path"),
        ({"METAFLOW_SANDBOX_MOUNTS": "/nowhere:/mnt"}, "create it"),
        ({"METAFLOW_SANDBOX_MOUNTS": "{here}/models:/run/metaflow-sandbox/code"}, "choose another place"),
        ({"METAFLOW_SANDBOX_MOUNTS": "{here}:/mnt:rw"}, "leave out rw"),
        ({"METAFLOW_SANDBOX_UPLOADS": '[{"local": "{here}/models", "remote": "/m"}]'}, "use mounts="),
    ],
)
def test_traps_are_refused_before_anything_runs(setting: Mapping[str, str], told: str, data: Path) -> None:
    """Guards the message at the start of the run: no sandbox was made, no step has run."""
    flow = place_flow("mounts_flow.py", data / "flow")
    env = {name: value.replace("{here}", str(data)) for name, value in setting.items()}
    done = run_flow(flow, "run", env=env, check=False)
    assert done.returncode != 0
    assert told in done.output
    assert "Task is starting" not in done.output
