"""The files of METAFLOW_SANDBOX_DEBUG."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path, PurePosixPath

from metaflow_extensions.sandbox.backends.interface import (
    Command,
    Mount,
    PythonEnvironment,
    SandboxSpec,
    Secret,
)
from metaflow_extensions.sandbox.relay.policy import TaskIdentity
from metaflow_extensions.sandbox.supervisor.debug_files import DebugFiles

TASK = TaskIdentity("Flow", "1", "start", "2", 0)


def test_what_was_run(tmp_path: Path) -> None:
    """Guards against a script that is not what ran, and secrets in what is shown to others."""
    files = DebugFiles(str(tmp_path), TASK)
    spec = SandboxSpec(
        cpu=2,
        mounts=[Mount(Path("/a"), PurePosixPath("/b"))],
        python=PythonEnvironment(Path("/usr/bin/python3")),
        secrets=[Secret("KEY", "hunter2", ("api.example.org",))],
        tell=print,
    )
    words = ["printf", "%s|", "it's", 'a "b"', "$HOME", ""]
    files.command(Command(words, env={"TOKEN": "hunter2", "A": "1"}), spec)
    assert files.directory == tmp_path / "Flow/1/start/2/0"
    ran = subprocess.run(["sh", files.directory / "script.sh"], capture_output=True, check=True, text=True)
    assert ran.stdout == 'it\'s|a "b"|$HOME||'
    assert (files.directory / "environment.txt").read_text() == "A=***\nTOKEN=***\n"
    kept = json.loads((files.directory / "spec.json").read_text())
    assert (kept["cpu"], kept["mounts"][0]["target"], "tell" in kept) == (2, "/b", False)
    assert "hunter2" not in "".join(path.read_text() for path in files.directory.iterdir())


def test_frames(tmp_path: Path) -> None:
    """Guards against frames without end, and against answers whose content is a secret."""
    files = DebugFiles(str(tmp_path), TASK)
    files.frame("guest", {"verb": "is_file", "paths": ["x" * 1000] * 100})
    files.frame("launcher", {"values": {"PASSWORD": "hunter2"}, "exists": True})
    files.frame("launcher", {"error": "refused: no"})
    text = (files.directory / "frames.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["from"] for line in lines] == ["guest", "launcher", "launcher"]
    assert lines[0]["header"]["verb"] == "is_file"
    assert lines[0]["header"]["paths"][-1] == "… (100)"
    assert lines[1]["header"] == {"values": "dict of 1", "exists": True}
    assert lines[2]["header"] == {"error": "refused: no"}
    assert len(text) < 20_000
