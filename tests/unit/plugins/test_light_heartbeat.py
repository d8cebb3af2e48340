"""The heart beside a task, as a process against a real server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from metaflow_extensions.sandbox.plugins import heart
from metaflow_extensions.sandbox.plugins.light_heartbeat import Heart

WITHIN = 30.0  # seconds; far more than any of this takes
PATH = "/flows/Flow/runs/1/steps/start/tasks/1/heartbeat"


class Server:
    """Keeps the beats; ``status`` and ``wait`` (seconds) are what it answers."""

    def __init__(self, port: int = 0) -> None:
        self.beats: list[tuple[str, bytes, str]] = []
        self.status = 200
        self.wait: object = 1
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.beats.append((self.path, body, self.headers["Host"]))
                answer = json.dumps(json.dumps({"wait_time_in_seconds": outer.wait})).encode()
                self.send_response(outer.status)
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port = self.server.server_address[1]
        Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{PATH}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + WITHIN
    while not condition():
        assert time.monotonic() < deadline, f"no {what}"
        time.sleep(0.01)


def test_beats_as_often_as_the_service_says(server: Server) -> None:
    """Guards the request that the service reads, and the wait that it answers, in JSON within JSON."""
    made = Heart(server.url)
    until(lambda: len(server.beats) > 1, "second beat")
    assert set(server.beats) == {(PATH, b"{}", f"127.0.0.1:{server.port}")}
    made.terminate()
    assert made._process.wait(WITHIN) == 0


def test_last_beat_comes_at_the_end(server: Server) -> None:
    """Guards a short task's end: it is not taken for alive until the next beat is due."""
    server.wait = 600
    made = Heart(server.url)
    until(lambda: server.beats, "beat")
    made.terminate()
    until(lambda: len(server.beats) == 2, "last beat")
    assert made._process.wait(WITHIN) == 0


def test_beats_on_when_the_service_is_back() -> None:
    """Guards a service that is killed and started again, or has trouble for a while."""
    first = Server()
    made = Heart(first.url)
    until(lambda: first.beats, "beat")
    first.status = 500
    until(lambda: len(first.beats) > 2, "beat that is refused")
    first.close()
    again = Server(first.port)
    until(lambda: again.beats, "beat at the new one")
    made.terminate()
    assert made._process.wait(WITHIN) == 0
    again.close()


def test_ends_with_its_owner(server: Server) -> None:
    """Guards against hearts that outlive a task which was killed, and keep it looking alive."""
    script = f"""
import os, signal
from metaflow_extensions.sandbox.plugins.light_heartbeat import Heart
made = Heart({server.url!r})
print(made._process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    pid = int(done.stdout)
    until(lambda: not is_alive(pid), "end")


def test_task_outlives_its_heart(server: Server) -> None:
    """Guards a task whose heart was killed: it ends as it would have."""
    made = Heart(server.url)
    made._process.kill()
    made._process.wait(WITHIN)
    made.terminate()


@pytest.mark.parametrize(("told", "seconds"), [(7, 7.0), ("", heart.WAIT), (0, heart.LEAST)])
def test_wait_is_a_sensible_one(server: Server, told: object, seconds: float) -> None:
    """Guards against a service whose answer would make hearts beat without a pause, or never."""
    server.wait = told
    assert heart.beat(server.port, b"POST / HTTP/1.0\r\nContent-Length: 0\r\n\r\n") == seconds


def is_alive(pid: int) -> bool:
    """Whether it runs; an orphan that nobody has waited for does not."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
