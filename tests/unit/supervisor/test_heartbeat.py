"""Heartbeats to a metadata service."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from metaflow_extensions.sandbox.relay.policy import TaskIdentity
from metaflow_extensions.sandbox.supervisor import heartbeat
from metaflow_extensions.sandbox.supervisor.heartbeat import Heartbeats

from ..relay.parts import settle

TEMPLATE = "/flows/{flow_id}/runs/{run_number}/steps/{step_name}/tasks/{task_id}/heartbeat"


class Service:
    """Counts the beats of each task; ``status`` is what it answers."""

    def __init__(self) -> None:
        self.beats: dict[str, int] = {}
        self.status = 200
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                outer.beats[self.path] = outer.beats.get(self.path, 0) + 1
                self.send_response(outer.status)
                self.end_headers()
                self.wfile.write(b'"{}"')

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def template(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}{TEMPLATE}"


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setattr(heartbeat, "INTERVAL", 0.05)
    made = Service()
    yield made
    made.server.shutdown()
    made.server.server_close()


def task(number: int) -> TaskIdentity:
    return TaskIdentity("Flow", "1", "start", str(number), 0)


def path(number: int) -> str:
    return f"/flows/Flow/runs/1/steps/start/tasks/{number}/heartbeat"


def test_a_task_beats_until_it_ends(service: Service) -> None:
    """Guards against a task that counts as dead while it runs, or as alive when it is over."""
    beats = Heartbeats(service.template)
    beats.start(task(1))
    settle(lambda: service.beats.get(path(1), 0) > 2)
    beats.start(task(2))
    beats.start(task(2))
    settle(lambda: service.beats.get(path(2), 0) > 2)
    beats.stop(task(1))
    beats.stop(task(1))
    beats.stop(task(9))
    before = service.beats[path(2)]
    settle(lambda: service.beats[path(2)] > before + 2)
    over = service.beats[path(1)]
    settle(lambda: service.beats[path(2)] > before + 6)
    assert service.beats[path(1)] == over
    beats.stop(task(2))


def test_a_new_task_beats_at_once(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against the first beat coming after an interval, when the service may have given the task up."""
    monkeypatch.setattr(heartbeat, "INTERVAL", 3600)
    beats = Heartbeats(service.template)
    for number in range(10):
        beats.start(task(number))
        settle(lambda number=number: path(number) in service.beats)


def test_a_service_that_fails(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    """Guards against one failure that ends all heartbeats of the run, or passes unseen."""
    service.status = 503
    beats = Heartbeats(service.template)
    beats.start(task(1))
    settle(lambda: "heartbeat of 1/start/1/0: 503" in caplog.text)
    service.status = 200
    before = service.beats[path(1)]
    settle(lambda: service.beats[path(1)] > before + 3)
    beats.stop(task(1))


def test_a_service_that_is_not_there(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a run that a missing service ends."""
    monkeypatch.setattr(heartbeat, "INTERVAL", 0.02)
    beats = Heartbeats("http://127.0.0.1:1" + TEMPLATE)
    beats.start(task(1))
    settle(lambda: caplog.text.count("heartbeat of") > 2)
    beats.stop(task(1))
