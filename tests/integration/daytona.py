"""A Daytona for the tests: the stand-in, in a process of its own."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KEY = "dtn_a-key-of-the-tests"


@dataclass
class DaytonaServer:
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
        return {"DAYTONA_API_URL": f"{self.url}/api", "DAYTONA_API_KEY": KEY}

    def sandboxes(self) -> list[dict[str, Any]]:
        """What it has, without those on their way out."""
        found: list[dict[str, Any]] = []
        cursor: str | None = "0"
        while cursor is not None:
            page = self.ask("GET", f"/api/sandbox?cursor={cursor}")
            found += page["items"]
            cursor = page.get("nextCursor")
        return [sandbox for sandbox in found if sandbox["state"] != "destroying"]

    def created(self) -> list[dict[str, Any]]:
        """Every request for a sandbox so far that was not refused."""
        asked: list[dict[str, Any]] = self.ask("GET", "/created")
        return asked

    @contextlib.contextmanager
    def failing(self, **faults: Any) -> Iterator[None]:
        """With faults (see ``daytona_server.Faults``), and then without."""
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
            headers={"Authorization": f"Bearer {KEY}"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)


@contextlib.contextmanager
def daytona_server() -> Iterator[DaytonaServer]:
    """Run one."""
    with subprocess.Popen(
        [sys.executable, "-m", f"{__package__}.daytona_server", "--key", KEY],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stdin
        assert process.stdout
        try:
            yield DaytonaServer(process, int(process.stdout.readline()))
        finally:
            # It ends with its standard input.
            process.stdin.close()
            process.wait(30)
