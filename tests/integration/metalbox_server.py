"""A stand-in for MetalBox's server: its HTTP API on the loopback, and services that really run.

It does what ``metalbox-dashboard`` 0.5.0 was read to do, but for what needs macOS: there is no
``sandbox-exec``, so that a profile is looked at and not enforced, and no ``footprint``. Like the original it
starts every service that it finds in its configuration when it starts, reads that again for each
request, and leaves alone a process whose command line it does not know.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

HOME = Path(os.environ["HOME"], ".metalbox")
SIZE = re.compile(r"(\d+)m\Z")
INHERITED = (
    *("PATH", "HOME", "USER", "SHELL", "LANG", "TERM"),
    *("TMPDIR", "XDG_RUNTIME_DIR", "LC_ALL", "LC_CTYPE"),
)
# What the original reads; it passes over any other word, which here is an error of the backend.
KEYS = {
    "service": {"command", "workdir", "env", "resources", "restart", "sandbox"},
    "resources": {"memory", "metal_memory", "metal_cache", "cpus"},
    "sandbox": {
        "preset",
        "allow_net",
        "localhost_only",
        "read_only",
        "read_write",
        "deny_paths",
        "deny_exec",
    },
}


class Service:
    """What the server remembers of one service while it lives."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.events: list[dict[str, Any]] = []
        self.process: subprocess.Popen[bytes] | None = None

    def tell(self, kind: str, message: str) -> None:
        """Add an event; the last 50 are kept."""
        self.events = [*self.events, {"time": time.time(), "type": kind, "message": message}][-50:]

    def start(self, settings: Mapping[str, Any], guard: float) -> None:
        """Run the command with bash, in a group of its own (here with a session), its output in one log."""
        if self.process and self.process.poll() is None:
            raise RuntimeError(f"{self.name} already running (pid {self.process.pid})")
        place = HOME / "logs" / self.name
        place.mkdir(parents=True, exist_ok=True)
        inherited = {key: os.environ[key] for key in INHERITED if key in os.environ}
        with (place / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                ["bash", "-c", settings["command"]],
                cwd=settings["workdir"],
                env={**inherited, "PYTHONUNBUFFERED": "1", **settings.get("env", {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        (HOME / "run").mkdir(exist_ok=True)
        (HOME / "run" / f"{self.name}.pid").write_text(str(self.process.pid))
        self.tell("started", f"pid {self.process.pid}")
        self.tell("isolation", "clean environment (only declared vars)")
        threading.Thread(target=self._wait, args=(self.process,), daemon=True).start()
        memory = settings.get("resources", {}).get("memory")
        if memory:
            watching = (self.process, settings["command"], int(SIZE.fullmatch(memory)[1]), guard)
            threading.Thread(target=self._guard, args=watching, daemon=True).start()

    def stop(self, command: str) -> None:
        """End it politely, then by force; not if it looks like another process."""
        if self.process is None:
            raise RuntimeError(f"{self.name} not running")
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self.process.poll() is None and known(self.process.pid, command):
                kill_tree(self.process.pid, number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(5)
        self.tell("stopped", "user stopped")

    def status(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """One element of ``GET /api/services``."""
        running = self.process is not None and self.process.poll() is None
        return {
            "name": self.name,
            "pid": self.process.pid if running else None,
            "status": "running" if running else "dead" if self.process else "stopped",
            "command": settings["command"],
            "restarts": 0,
            "events": self.events,
        }

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        code = process.wait()
        self.tell("exited", f"code {code if code >= 0 else -1}")

    def _guard(self, process: subprocess.Popen[bytes], command: str, limit: int, seconds: float) -> None:
        while process.poll() is None:
            time.sleep(seconds)
            used = sum(resident(pid) for pid in tree(process.pid))
            if used > limit and known(process.pid, command):
                self.tell("oom-kill", f"memory {used:.0f}MB > limit {limit}MB")
                kill_tree(process.pid, signal.SIGTERM)
                time.sleep(min(seconds, 5))
                kill_tree(process.pid, signal.SIGKILL)
                return


def known(pid: int, command: str) -> bool:
    """Whether the process shows any word of the command, options aside."""
    shown = subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True).stdout
    return any(word in shown for word in command.split() if not word.startswith("-"))


def tree(pid: int) -> Iterator[int]:
    """The process and its descendants, parents first."""
    yield pid
    for child in subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True).stdout.split():
        yield from tree(int(child))


def kill_tree(pid: int, number: int) -> None:
    """Signal the tree bottom-up, and then the group."""
    for each in [*reversed(list(tree(pid))), -pid]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, number)


def resident(pid: int) -> float:
    """Resident memory in MiB, 0 when it has ended."""
    said = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True).stdout
    return int(said or 0) / 1024


class Registry:
    """All services, by the configuration as it is now."""

    def __init__(self, guard: float) -> None:
        self.guard = guard
        self.services: dict[str, Service] = {}
        self._lock = threading.Lock()

    def configured(self) -> dict[str, Any]:
        """The configuration's services. Raises ValueError for what the original would not read."""
        found: dict[str, Any] = json.loads(Path(os.environ["METALBOX_CONFIG"]).read_bytes())["services"]
        for settings in found.values():
            for kind, words in KEYS.items():
                unknown = set(settings if kind == "service" else settings.get(kind, {})) - words
                if unknown:
                    raise ValueError(f"MetalBox's {kind} has no {sorted(unknown)}")
        return found

    def named(self, name: str) -> Service:
        """What is remembered of a service, from the first time on."""
        with self._lock:
            return self.services.setdefault(name, Service(name))


class Handler(BaseHTTPRequestHandler):
    """The API."""

    registry: Registry

    def do_GET(self) -> None:
        """``/api/services`` and ``/api/logs/NAME``."""
        path, _, query = self.path.partition("?")
        if path == "/api/services":
            configured = self.registry.configured()
            states = [self.registry.named(name).status(settings) for name, settings in configured.items()]
            self._answer(200, states or None)
            return
        log = HOME / "logs" / Path(path).name / f"{Path(path).name}.log"
        lines = int(query.removeprefix("lines=") or 100)
        text = log.read_text(errors="replace") if log.exists() else "no logs available"
        self._send(200, "text/plain", "\n".join(text.split("\n")[-lines:]).encode())

    def do_POST(self) -> None:
        """``/api/services/NAME/start`` and ``…/stop``, and ``/api/shutdown``."""
        if self.path == "/api/shutdown":
            self._answer(200, {"status": "ok"})
            threading.Thread(target=self.server.shutdown, daemon=True).start()
            return
        name, action = self.path.removeprefix("/api/services/").split("/")
        settings = self.registry.configured().get(name)
        if settings is None:
            self._answer(404, {"error": f"unknown service: {name}"})
            return
        service = self.registry.named(name)
        try:
            if action == "start":
                service.start(settings, self.registry.guard)
            else:
                service.stop(settings["command"])
        except (OSError, RuntimeError) as error:
            self._answer(500, {"error": str(error)})
            return
        self._answer(200, {"status": action, "service": name})

    def log_message(self, *_: object) -> None:
        """Nothing is logged."""

    def _answer(self, status: int, body: object) -> None:
        self._send(status, "application/json", json.dumps(body).encode())

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    """Serve on METALBOX_PORT of 127.0.0.1 alone, as METALBOX_CONFIG says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--guard", type=float, default=5.0, help="seconds between looks at memory")
    registry = Handler.registry = Registry(parser.parse_args().guard)
    HOME.mkdir(exist_ok=True)
    server = ThreadingHTTPServer(("127.0.0.1", int(os.environ["METALBOX_PORT"])), Handler)
    for name, settings in registry.configured().items():
        registry.named(name).start(settings, registry.guard)
    server.serve_forever(poll_interval=0.05)


if __name__ == "__main__":
    main()
