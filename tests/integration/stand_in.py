"""Stand-ins for what providers run, each a server in a process of its own that ends with its input."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

S = TypeVar("S", bound="StandIn")


@dataclass
class StandIn:
    """A running one; it prints its port first, and ``POST /faults`` makes it fail as asked."""

    process: subprocess.Popen[bytes]
    port: int
    module: ClassVar[str]
    key: ClassVar[str]

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def settings(self) -> Mapping[str, str]:
        """The environment that leads to it."""
        return {}

    @contextlib.contextmanager
    def failing(self, **faults: Any) -> Iterator[None]:
        """With faults, see ``Faults`` in its module, and then without."""
        self.ask("POST", "/faults", faults)
        try:
            yield
        finally:
            self.ask("POST", "/faults", {})

    def ask(self, method: str, path: str, content: object = None) -> Any:
        """One request, and what was answered."""
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if content is None else json.dumps(content).encode(),
            headers={"Authorization": f"Bearer {self.key}"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)


@contextlib.contextmanager
def serving(kind: type[S]) -> Iterator[S]:
    """Run one."""
    with subprocess.Popen(
        [sys.executable, "-m", f"{__package__}.{kind.module}", "--key", kind.key],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stdin
        assert process.stdout
        try:
            yield kind(process, int(process.stdout.readline()))
        finally:
            process.stdin.close()
            process.wait(30)
