"""microsandbox for the tests: the stand-in of its cloud as a process, and its settings."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metaflow_extensions.sandbox.backends.microsandbox.place import KEY as KEY_SETTING
from metaflow_extensions.sandbox.backends.microsandbox.place import URL

from .microsandbox_server import IMAGE, KEY

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class StandIn:
    """A stand-in that runs; ``directory`` has its machines, one directory each."""

    url: str
    directory: Path
    process: subprocess.Popen[str]
    image: str = IMAGE

    @property
    def settings(self) -> Mapping[str, str]:
        """The environment that makes the backend use it."""
        return {URL: self.url, KEY_SETTING: KEY}

    def misbehave(self, **faults: Any) -> None:
        """See ``microsandbox_server``."""
        self._ask("/faults", json.dumps(faults).encode())

    def asked(self) -> Any:
        """What all creates asked for."""
        return self._ask("/asked")

    def _ask(self, path: str, data: bytes | None = None) -> Any:
        asked = urllib.request.Request(self.url + path, data, {"Authorization": f"Bearer {KEY}"})
        with urllib.request.urlopen(asked) as answer:
            return json.load(answer)


@contextlib.contextmanager
def stand_in() -> Iterator[StandIn]:
    """Run one."""
    with tempfile.TemporaryDirectory(prefix="msb") as name:
        directory = Path(name, "machines")
        words = [sys.executable, "-m", "tests.integration.microsandbox_server", str(directory)]
        with subprocess.Popen(
            words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout
            yield StandIn(process.stdout.readline().strip(), directory, process)
            process.communicate()
