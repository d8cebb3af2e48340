"""What tests have of a stand-in for a service: a process of its own, that fails as it is asked to."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

S = TypeVar("S", bound="StandIn")
KEY_VARIABLE = "METAFLOW_SANDBOX_TESTS_KEY"  # of a stand-in: the only key that it accepts


@dataclass
class StandIn:
    """A running one."""

    process: subprocess.Popen[bytes]
    port: int

    program: ClassVar[str]
    """The module, which prints its port and ends with its standard input."""
    key: ClassVar[str]
    faults: ClassVar[str] = "/faults"

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def headers(self) -> Mapping[str, str]:
        """With which it lets the tests in."""
        return {"Authorization": f"Bearer {self.key}"}

    @contextlib.contextmanager
    def failing(self, **faults: Any) -> Iterator[None]:
        """With faults (see ``Faults`` in its program), and then without."""
        self.ask("POST", self.faults, faults)
        try:
            yield
        finally:
            self.ask("POST", self.faults, {})

    def requests(self) -> dict[str, int]:
        """How often it was asked for what, as "POST /path/{name}"."""
        found: dict[str, int] = self.ask("GET", "/requests")
        return found

    def ask(self, method: str, path: str, content: object = None) -> Any:
        """What it answers."""
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if content is None else json.dumps(content).encode(),
            headers=dict(self.headers),
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)


@contextlib.contextmanager
def running(kind: type[S]) -> Iterator[S]:
    """Run one."""
    with subprocess.Popen(
        [sys.executable, "-m", f"{__package__}.{kind.program}"],
        env={**os.environ, KEY_VARIABLE: kind.key},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stdin
        assert process.stdout
        try:
            yield kind(process, int(process.stdout.readline()))
        finally:
            # It ends with its standard input.
            process.stdin.close()
            process.wait(30)
