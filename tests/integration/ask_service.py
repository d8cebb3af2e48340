"""Requests to a metadata service as they are on the wire, for what no well-meaning client would send."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .harness import TIMEOUT


@dataclass(frozen=True)
class Answer:
    """Status, headers (lower case) and body of an answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, None where it is no JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


def ask(
    url: str, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
) -> Answer:
    """Send one request; a body that is not bytes goes as JSON. ``path`` is sent as it is."""
    address = url.removeprefix("http://")
    connection = http.client.HTTPConnection(address, timeout=TIMEOUT)
    content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    sent = {"Host": address, "Content-Length": str(len(content)), **(headers or {})}
    try:
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in sent.items():
            connection.putheader(name, value)
        connection.endheaders(content)
        answer = connection.getresponse()
        return Answer(
            answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        )
    finally:
        connection.close()


def new_run(url: str, flow: str = "AFlow") -> str:
    """The path of a new run."""
    ask(url, "POST", f"/flows/{flow}", {})
    run = ask(
        url, "POST", f"/flows/{flow}/run", {"user_name": "tester", "tags": [], "system_tags": ["system:1"]}
    )
    assert run.status == 201, run
    return f"/flows/{flow}/runs/{run.json['run_number']}"


def new_task(url: str, run: str, step: str = "start") -> str:
    """The path of a new task."""
    task = ask(url, "POST", f"{run}/steps/{step}/task", {"user_name": "tester"})
    assert task.status == 201, task
    return f"{run}/steps/{step}/tasks/{task.json['task_id']}"


def entry(field: str, value: Any, attempt: int = 0, **more: Any) -> dict[str, Any]:
    """One of a task's metadata, as Metaflow sends it."""
    return {"field_name": field, "value": value, "type": field, "tags": [f"attempt_id:{attempt}"], **more}


def artifact(name: str, attempt: int = 0) -> dict[str, Any]:
    """One of a task's artifacts, as Metaflow sends it."""
    return {"name": name, "attempt_id": attempt, "sha": f"{name} of {attempt}", "ts_epoch": 1}
