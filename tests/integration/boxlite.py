"""A server of boxes for the tests: the stand-in, in a process of its own."""

from __future__ import annotations

import contextlib
import json
import secrets
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KEY = f"a-key-of-the-tests-{secrets.token_hex(8)}"


@dataclass
class BoxliteServer:
    """A running stand-in."""

    process: subprocess.Popen[bytes]
    port: int

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def settings(self) -> Mapping[str, str]:
        """The environment that leads to it."""
        return {"BOXLITE_URL": self.url, "BOXLITE_API_KEY": KEY}

    def boxes(self) -> list[dict[str, Any]]:
        """What it has."""
        found: list[dict[str, Any]] = self._ask("GET", "/v1/boxes")["boxes"]
        return found

    @contextlib.contextmanager
    def failing(self, **faults: Any) -> Iterator[None]:
        """With faults (see ``boxlite_server.Faults``), and then without."""
        self._ask("POST", "/faults", faults)
        try:
            yield
        finally:
            self._ask("POST", "/faults", {})

    def _ask(self, method: str, path: str, content: object = None) -> Any:
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if content is None else json.dumps(content).encode(),
            headers={"Authorization": f"Bearer {KEY}"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)


@contextlib.contextmanager
def boxlite_server() -> Iterator[BoxliteServer]:
    """Run one."""
    with subprocess.Popen(
        [sys.executable, "-m", f"{__package__}.boxlite_server", "--key", KEY],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stdin
        assert process.stdout
        try:
            yield BoxliteServer(process, int(process.stdout.readline()))
        finally:
            # It ends with its standard input.
            process.stdin.close()
            process.wait(30)
