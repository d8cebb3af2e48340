"""A proxy before a metadata service, or a bucket, that keeps a record of what it is asked."""

from __future__ import annotations

import contextlib
import http.client
import re
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from .harness import FlowRun
from .live import LiveFlow

TIMEOUT = 60  # seconds for the service to answer
HEARTBEAT = re.compile(r"/flows/(\w+)/runs/\w+/steps/(\w+)/tasks/\w+/heartbeat")
PER_CONNECTION = ("content-length", "transfer-encoding", "connection")


@dataclass
class Recorder:
    """Where the proxy is, and (method, path) of every request so far; while ``away``, it turns them away."""

    url: str
    requests: list[tuple[str, str]] = field(default_factory=list)
    away: bool = False
    turned_away: int = 0

    def heartbeats(self, flow: str) -> list[str]:
        """The steps whose tasks' hearts have beaten, once a beat."""
        found = (HEARTBEAT.search(path) for method, path in list(self.requests) if method == "POST")
        return [match.group(2) for match in found if match and match.group(1) == flow]


@contextlib.contextmanager
def recording(target: str) -> Iterator[Recorder]:
    """A proxy on a port of its own before the service at the URL ``target``."""

    class Handler(BaseHTTPRequestHandler):
        def _pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if recorder.away:
                recorder.turned_away += 1
                self.close_connection = True
                return
            recorder.requests.append((self.command, self.path))
            connection = http.client.HTTPConnection(target.removeprefix("http://"), timeout=TIMEOUT)
            connection.request(self.command, self.path, body, dict(self.headers.items()))
            answer = connection.getresponse()
            content = answer.read()
            connection.close()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in PER_CONNECTION:
                    self.send_header(name, value)
            told = answer.getheader("Content-Length", "0") if self.command == "HEAD" else str(len(content))
            self.send_header("Content-Length", told)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_HEAD = do_POST = do_PATCH = do_PUT = _pass_on  # noqa: N815 -- named by the base class

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        recorder = Recorder(f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield recorder
        finally:
            server.shutdown()
            thread.join()


def end_while_away(flow: LiveFlow, between: Recorder, times: int) -> FlowRun:
    """Let the waiting step of WaitingFlow end, and so many requests of its end be turned away."""
    flow.wait_for("ready")
    between.away = True
    flow.kill("shim", signal.SIGUSR1)
    flow.until(lambda: between.turned_away >= times, "requests that are turned away")
    between.away = False
    return flow.finish()
