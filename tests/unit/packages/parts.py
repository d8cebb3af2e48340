"""Wheels made of text, and an index on the loopback that serves them."""

from __future__ import annotations

import contextlib
import hashlib
import io
import threading
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def wheel(files: Mapping[str, Any], name: str = "demo", version: str = "1.0", **metadata: str) -> bytes:
    """A wheel of those files and what every wheel has; ``metadata`` are further files of its .dist-info."""
    info = f"{name}-{version}.dist-info"
    whole = {
        **files,
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/RECORD": "",
        **{f"{info}/{file}": content for file, content in metadata.items()},
    }
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for path, content in whole.items():
            archive.writestr(path, content)
    return target.getvalue()


@dataclass
class Index:
    """A package index of files by name; ``hashes`` are told instead of a file's own."""

    files: dict[str, bytes]
    hashes: dict[str, str] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)  # files of which only the first half is sent
    asked: list[str] = field(default_factory=list)
    url: str = ""

    def page(self, package: str) -> bytes | None:
        """The package's page, by the simple repository API; None where there is none."""
        links = [
            f'<a href="/files/{name}#sha256={self.hashes.get(name) or hashlib.sha256(content).hexdigest()}">'
            f"{name}</a>"
            for name, content in self.files.items()
            if name.split("-")[0].replace("_", "-").lower() == package
        ]
        return f"<!DOCTYPE html><html><body>{''.join(links)}</body></html>".encode() if links else None

    @property
    def settings(self) -> dict[str, str]:
        """What makes uv use it and no other."""
        return {"UV_DEFAULT_INDEX": f"{self.url}/simple", "UV_NO_CONFIG": "1", "UV_NO_CACHE": "1"}

    def fetched(self, name: str) -> int:
        """How often a file was asked for whole."""
        return self.asked.count(f"/files/{name}")


@contextlib.contextmanager
def index(files: Mapping[str, bytes], **differing: Any) -> Iterator[Index]:
    """Serve the files until the context ends."""
    served = Index(dict(files), **differing)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            kind, _, name = self.path.strip("/").partition("/")
            content = served.page(name.strip("/")) if kind == "simple" else served.files.get(name)
            if self.command == "GET":
                served.asked.append(self.path)
            self.send_response(200 if content is not None else 404)
            self.send_header("Content-Type", "text/html" if kind == "simple" else "application/octet-stream")
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            if self.command == "HEAD":
                return
            self.wfile.write((content or b"")[: len(content or b"") // 2 if name in served.broken else None])

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
