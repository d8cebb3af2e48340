"""The heart of a task whose service is on this machine: a small process.

Metaflow starts a second Metaflow beside every task to beat; on a busy machine that nearly doubles its cost.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from metaflow.metaflow_config import SERVICE_HEADERS

HEART = Path(__file__).with_name("heart.py")


class Heart:
    """A process that posts to a URL of 127.0.0.1; in the place of Metaflow's Sidecar."""

    def __init__(self, url: str) -> None:
        place = urlsplit(url)
        headers: dict[str, Any] = {
            **SERVICE_HEADERS,
            "Host": place.netloc,
            "Content-Length": 2,
            "Connection": "close",
        }
        lines = [f"POST {place.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(HEART), str(place.port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        self._tell("\r\n".join([*lines, "", "{}"]).encode())

    def terminate(self) -> None:
        """Let it beat a last time and end, without waiting for it."""
        self._tell(b"\n")

    def _tell(self, data: bytes) -> None:
        # As with Metaflow's, a task goes on without its heart.
        with suppress(BrokenPipeError):
            assert self._process.stdin
            self._process.stdin.write(data)
