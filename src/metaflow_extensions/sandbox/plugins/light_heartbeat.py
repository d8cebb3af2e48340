"""Metaflow's service provider with a lighter heart, for a service on this machine.

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
from metaflow.plugins.metadata_providers.service import ServiceMetadataProvider

HEART = Path(__file__).with_name("heart.py")
LOCAL = "http://127.0.0.1:"


class LightServiceMetadata(ServiceMetadataProvider):
    """``--metadata service``, chosen by METAFLOW_SANDBOX_HEARTBEAT=light."""

    TYPE = "service"

    def start_run_heartbeat(self, flow_id: str, run_id: str) -> None:
        """Beat for a run until ``stop_heartbeat`` or this process's end."""
        url = self.url_run_template.format(flow_id=flow_id, run_number=run_id)
        if self._is_elsewhere(url):
            super().start_run_heartbeat(flow_id, run_id)
        else:
            self.sidecar = Heart(url)

    def start_task_heartbeat(self, flow_id: str, run_id: str, step_name: str, task_id: str) -> None:
        """Beat for a task."""
        url = self.url_task_template.format(
            flow_id=flow_id, run_number=run_id, step_name=step_name, task_id=task_id
        )
        if self._is_elsewhere(url):
            super().start_task_heartbeat(flow_id, run_id, step_name, task_id)
        else:
            self.sidecar = Heart(url)

    def _is_elsewhere(self, url: str) -> bool:
        return self._already_started() or not url.startswith(LOCAL)


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
