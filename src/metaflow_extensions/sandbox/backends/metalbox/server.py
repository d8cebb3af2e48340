"""One MetalBox server for one sandbox: its own configuration, state directory and port."""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import json
import os
import platform
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import BackendUnavailable, SandboxLost, StartFailed
from .service import configuration

CHOICE = "METAFLOW_SANDBOX_METALBOX_PATH"
STRICT = "METAFLOW_SANDBOX_METALBOX_STRICT"
_PATIENCE = 10.0  # seconds for an answer
_TRIES = 5  # ports, which others may take between our look and the server's
_PATH = "/usr/bin:/bin:/usr/sbin:/sbin"


def find(environ: Mapping[str, str] = os.environ) -> Path:
    """The server's binary. Raises BackendUnavailable where there is none that may run here."""
    if environ.get(STRICT) == "1":
        raise BackendUnavailable(
            f"MetalBox's server listens on all interfaces and asks for no password, and {STRICT}=1 "
            "forbids that: unset it, or choose another backend"
        )
    chosen = environ.get(CHOICE)
    if chosen:
        if not os.access(chosen, os.X_OK):
            raise BackendUnavailable(f"{CHOICE}={chosen!r} is not an executable file: correct or unset it")
        return Path(chosen).absolute()
    if (sys.platform, platform.machine()) != ("darwin", "arm64"):
        raise BackendUnavailable(
            "the metalbox backend needs macOS 14 or newer on Apple silicon, and this is "
            f"{sys.platform} on {platform.machine()}: choose another backend"
        )
    package = importlib.util.find_spec("metalbox")
    for place in (package.submodule_search_locations or ()) if package else ():
        binary = Path(place, "bin", "metalbox-dashboard")
        if os.access(binary, os.X_OK):
            return binary
    found = shutil.which("metalbox-dashboard")
    if found:
        return Path(found)
    raise BackendUnavailable("MetalBox is not installed: pip install 'metaflow-sandbox[metalbox]'")


class Server:
    """A running server; ``directory`` is its home, so that the user's own state is not touched."""

    def __init__(self, binary: Path, directory: Path) -> None:
        directory.mkdir()
        self._directory = directory
        self._services: dict[str, Any] = {}
        # Before the server runs, which starts every service that it finds then.
        self._configure()
        self._name = self._named()
        for _ in range(_TRIES):
            self.port = _free_port()
            self._process = self._start(binary)
            try:
                if self._answers():
                    return
            except BaseException:
                self.close()
                raise
            self.close()
        said = (directory / "server.log").read_text(errors="replace").strip()
        raise StartFailed(f"MetalBox's server does not run: {said[-2000:] or 'it said nothing'}")

    @property
    def lifeline(self) -> int:
        """A descriptor whose end of file is the server's end."""
        assert self._process.stdout
        return self._process.stdout.fileno()

    def gone(self) -> bool:
        """Whether the server has ended."""
        return self._process.poll() is not None

    def start(self, name: str, service: Mapping[str, Any]) -> None:
        """Add a service and start it. Raises StartFailed."""
        self._services[name] = service
        self._configure()
        try:
            status, answer = self._ask("POST", f"/api/services/{name}/start")
        except (OSError, http.client.HTTPException) as error:
            raise StartFailed(f"MetalBox's server does not answer: {error}") from error
        if status != http.HTTPStatus.OK:
            raise StartFailed(f"MetalBox refuses the service: {answer.decode(errors='replace').strip()}")

    def forget(self, name: str) -> None:
        """Take an ended service out of the configuration."""
        self._services.pop(name, None)
        self._configure()

    def state(self, name: str) -> Mapping[str, Any]:
        """What the server says of a service. Raises SandboxLost when it says nothing."""
        try:
            status, answer = self._ask("GET", "/api/services")
        except (OSError, http.client.HTTPException) as error:
            raise SandboxLost(f"MetalBox's server went away under the command: {error}") from error
        for service in json.loads(answer) or () if status == http.HTTPStatus.OK else ():
            if service["name"] == name:
                return dict(service)
        raise SandboxLost("MetalBox's server knows the command's service no more: run the step again")

    def log(self, name: str) -> str:
        """The last lines of a service's log, which has what the runner itself said."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self._ask("GET", f"/api/logs/{name}?lines=20")[1].decode(errors="replace").strip()
        return "its server does not answer"

    def close(self) -> None:
        """Kill the server and wait for it; what it started has to be ended by others."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdout
        self._process.stdout.close()

    def _start(self, binary: Path) -> subprocess.Popen[bytes]:
        with (self._directory / "server.log").open("wb") as log:
            return subprocess.Popen(
                [binary],
                # HOME is also how the profile's own exceptions below the home directory miss the user's.
                env={
                    "HOME": str(self._directory),
                    "PATH": _PATH,
                    "METALBOX_CONFIG": str(self._directory / "metalbox.yml"),
                    "METALBOX_PORT": str(self.port),
                },
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )

    def _named(self) -> str:
        """A name that this server alone knows, as that of a service with a log."""
        name = secrets.token_hex(8)
        log = self._directory / ".metalbox" / "logs" / name / f"{name}.log"
        log.parent.mkdir(parents=True)
        log.write_text(f"{name}\n")
        return name

    def _answers(self) -> bool:
        """Wait until it does, and not another that took its port; False when it ended instead."""
        deadline = time.monotonic() + _PATIENCE
        while not self.gone():
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self._ask("GET", f"/api/logs/{self._name}?lines=100")[1].strip() == self._name.encode():
                    return True
            if time.monotonic() > deadline:
                raise StartFailed(f"MetalBox's server does not answer on port {self.port}")
            time.sleep(0.005)
        return False

    def _ask(self, method: str, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_PATIENCE)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def _configure(self) -> None:
        draft = self._directory / "metalbox.draft"
        draft.write_bytes(configuration(self._services))
        draft.replace(self._directory / "metalbox.yml")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
