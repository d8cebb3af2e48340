"""Metadata services of a test's own, ours and metaflow-local-service: state and data in one directory."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .harness import TIMEOUT, flow_environment

# The console scripts' functions: the scripts themselves may not be on PATH.
WHOLE = (sys.executable, "-m", "metaflow_extensions.sandbox.cli", "service")
UPSTREAM = (sys.executable, "-c", "from metaflow_local_service.cli import cli; cli()")


@dataclass(frozen=True)
class Service:
    """The command line of a service, and the directory that is its home and root."""

    program: Sequence[str]
    directory: Path

    def __post_init__(self) -> None:
        """Keep it from the records of a directory above."""
        (self.directory / ".metaflow").mkdir(parents=True, exist_ok=True)

    def command(self, *arguments: str, code: int | None = 0, env: Mapping[str, str] | None = None) -> str:
        """Run a subcommand; its output, both streams. It has to end with that code, None for any."""
        done = subprocess.run(
            [*self.program, *arguments],
            cwd=self.directory,
            env=self.environment(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=TIMEOUT,
            check=False,
        )
        output = done.stdout.decode(errors="replace")
        assert code is None or done.returncode == code, output
        return output

    def environment(self, env: Mapping[str, str] | None = None) -> dict[str, str]:
        """A user's, whose home is the directory."""
        return flow_environment({"HOME": str(self.directory), **(env or {})})

    @property
    def url(self) -> str:
        """Where it is."""
        return self.command("url").strip()

    @property
    def env(self) -> dict[str, str]:
        """What makes Metaflow use it, as its own `run` sets it."""
        light = {"METAFLOW_SANDBOX_HEARTBEAT": "light"} if self.program == WHOLE else {}
        return {"METAFLOW_SERVICE_URL": self.url, "METAFLOW_DEFAULT_METADATA": "service", **light}


@contextlib.contextmanager
def running(program: Sequence[str], directory: Path, *options: str) -> Iterator[Service]:
    """A service that is started, and stopped in the end."""
    service = Service(program, directory)
    service.command("start", "--metaflow-root", str(directory), *options)
    try:
        yield service
    finally:
        root = ("--metaflow-root", str(directory)) if program == WHOLE else ()
        service.command("stop", *root, code=None)
