"""Registries of images on the loopback: read-only, over plain http, with one image, NAME:latest.

    open       anyone may pull it
    private    with USER and PASSWORD, by basic authentication
    token      the same, by a token that the registry sends its client to fetch
    broken     the registry answers 503

Protocol: the OCI distribution specification, version 1.1, as far as pulling needs it.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from .images import MANIFEST, layout

NAME = "sandbox-test/python"
USER, PASSWORD = "someone", "a:secret"
BASIC = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
KINDS = ("open", "private", "token", "broken")
BEARER = "a-token-of-the-registry"
ASKED = re.compile(r"/v2/(?P<name>.+)/(?P<kind>manifests|blobs)/(?P<reference>[^/]+)\Z")


@dataclass
class Registry:
    """Registries that run, by kind; ``asked`` holds the method and path of every request so far."""

    place: Path
    addresses: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def image(self, kind: str = "open") -> str:
        """The image's reference in the registry of that kind."""
        return f"{self.addresses[kind]}/{NAME}:latest"

    def blob(self, digest: str) -> Path:
        """The file of a blob."""
        return self.place / "blobs" / "sha256" / digest.removeprefix("sha256:")

    def manifest(self, reference: str) -> str:
        """The digest of a manifest that is asked for by tag or by digest."""
        digest: str = json.loads((self.place / "index.json").read_text())["manifests"][0]["digest"]
        return digest if reference in ("latest", digest) else "absent"


@contextlib.contextmanager
def registry(place: Path | None = None) -> Iterator[Registry]:
    """Serve an OCI layout, by default the one of the test image, in a registry of each kind."""
    found = Registry(place or layout())
    with contextlib.ExitStack() as stack:
        for kind in KINDS:
            found.addresses[kind] = stack.enter_context(serving(kind, found))
        yield found


@contextlib.contextmanager
def serving(kind: str, of: Registry) -> Iterator[str]:
    """Serve one kind; its address."""
    handler = type("Handler", (KindHandler,), {"kind": kind, "registry": of})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


class KindHandler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    kind: str
    registry: Registry

    def do_GET(self) -> None:
        """Answer a request for a manifest, a blob, a token, or whether this is a registry."""
        self.registry.asked.append(f"{self.command} {self.path}")
        if self.kind == "broken":
            return self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "UNAVAILABLE")
        if self.path.startswith("/token"):
            return self._token()
        if self.kind == "private" and self.headers["Authorization"] != BASIC:
            return self._refuse(HTTPStatus.UNAUTHORIZED, "UNAUTHORIZED", 'Basic realm="tests"')
        if self.kind == "token" and self.headers["Authorization"] != f"Bearer {BEARER}":
            realm = f'Bearer realm="http://{self.registry.addresses["token"]}/token",service="tests"'
            return self._refuse(HTTPStatus.UNAUTHORIZED, "UNAUTHORIZED", realm)
        if self.path.rstrip("/") == "/v2":
            return self._answer(HTTPStatus.OK, b"{}")
        asked = ASKED.match(self.path)
        if asked is None or asked["name"] != NAME:
            return self._refuse(HTTPStatus.NOT_FOUND, "NAME_UNKNOWN")
        return self._file(asked["kind"], asked["reference"])

    do_HEAD = do_GET  # noqa: N815 -- the base class's name

    def log_message(self, *words: object) -> None:
        """Nothing: requests are kept in ``asked``."""

    def _token(self) -> None:
        if self.headers["Authorization"] != BASIC:
            return self._refuse(HTTPStatus.UNAUTHORIZED, "UNAUTHORIZED", 'Basic realm="tests"')
        return self._answer(HTTPStatus.OK, json.dumps({"token": BEARER, "access_token": BEARER}).encode())

    def _file(self, kind: str, reference: str) -> None:
        digest = self.registry.manifest(reference) if kind == "manifests" else reference
        path = self.registry.blob(digest)
        if not path.is_file():
            return self._refuse(HTTPStatus.NOT_FOUND, f"{kind[:-1].upper()}_UNKNOWN")
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", MANIFEST if kind == "manifests" else "application/octet-stream")
        self.send_header("Content-Length", str(path.stat().st_size))
        self.send_header("Docker-Content-Digest", digest)
        self.end_headers()
        if self.command == "GET":
            with path.open("rb") as file:
                shutil.copyfileobj(file, self.wfile)
        return None

    def _refuse(self, status: HTTPStatus, code: str, challenge: str | None = None) -> None:
        content = json.dumps({"errors": [{"code": code, "message": code.lower().replace("_", " ")}]}).encode()
        self._answer(status, content, challenge)

    def _answer(self, status: HTTPStatus, content: bytes, challenge: str | None = None) -> None:
        self.send_response(status)
        if challenge:
            self.send_header("WWW-Authenticate", challenge)
        self.send_header("Docker-Distribution-API-Version", "registry/2.0")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)
