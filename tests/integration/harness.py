"""Run real flows as a user would, in a directory of their own, and look at what they left."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FLOWS = Path(__file__).with_name("flows")
RUN_ID = re.compile(r"\(run-id ([^)]+)\)")
TIMEOUT = 240  # seconds; a run that takes longer hangs
# Which backend the flow suite runs on, and its settings: METAFLOW_SANDBOX_TESTS_IMAGE and the like.
SETTING = "METAFLOW_SANDBOX_TESTS_"
BACKEND = os.environ.get(f"{SETTING}BACKEND", "bubblewrap")
IMAGE = os.environ.get(f"{SETTING}IMAGE")


@dataclass(frozen=True)
class FlowRun:
    """A finished process of a flow: its exit code, its output (both streams), where it ran."""

    returncode: int
    output: str
    directory: Path

    @property
    def run_id(self) -> str:
        """The run's id, from the scheduler's first line."""
        found = RUN_ID.search(self.output)
        assert found, self.output
        return found.group(1)


def flow_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a user's shell has, without the settings of whoever runs the tests."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("METAFLOW_", "AWS_", "PYTEST_"))
    }
    # Metaflow's own default, in /tmp, belongs to whoever used it first.
    cache = Path(tempfile.gettempdir(), f"metaflow_client-{os.getuid()}")
    return {
        **kept,
        **backend_settings(),
        "METAFLOW_USER": "tester",
        "METAFLOW_CLIENT_CACHE_PATH": str(cache),
        # In MB; Metaflow's own default is 10 GB.
        "METAFLOW_CLIENT_CACHE_MAX_SIZE": "300",
        **(extra or {}),
    }


def backend_settings() -> dict[str, str]:
    """METAFLOW_SANDBOX_… for each METAFLOW_SANDBOX_TESTS_… that names a backend or an option of it.

    Settings of that backend alone are kept: METAFLOW_SANDBOX_<BACKEND>_….
    """
    names = ("BACKEND", "IMAGE", "MEMORY", "NETWORK", "BACKEND_OPTIONS")
    given = {name: os.environ.get(SETTING + name) for name in names}
    own = f"METAFLOW_SANDBOX_{BACKEND.upper()}_"
    return {
        **{name: value for name, value in os.environ.items() if name.startswith(own)},
        **{f"METAFLOW_SANDBOX_{name}": value for name, value in given.items() if value},
    }


def place_flow(name: str, directory: Path) -> Path:
    """Copy a flow of tests/integration/flows into ``directory``."""
    directory.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(FLOWS / name, directory / name))


def flow_command(flow: Path, *arguments: str) -> list[str]:
    """The command line that a user would type."""
    return [sys.executable, flow.name, *arguments]


def run_flow(
    flow: Path, *arguments: str, env: Mapping[str, str] | None = None, check: bool = True
) -> FlowRun:
    """Run ``python FLOW ARGUMENTS…`` in the flow's directory; with ``check`` it has to succeed."""
    done = subprocess.run(
        flow_command(flow, *arguments),
        cwd=flow.parent,
        env=flow_environment(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=TIMEOUT,
        check=False,
    )
    output = done.stdout.decode(errors="replace")
    assert done.returncode == 0 or not check, output
    return FlowRun(done.returncode, output, flow.parent)


def read_results(directory: Path, script: str, env: Mapping[str, str] | None = None) -> str:
    """Run a small Client API script where the flow ran, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=directory,
        env=flow_environment(env),
        capture_output=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout.decode()
