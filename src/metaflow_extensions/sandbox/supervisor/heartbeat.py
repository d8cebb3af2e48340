"""Heartbeats of a run's tasks to a metadata service, all from one thread."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from metaflow.metaflow_config import SERVICE_HEADERS

from ..loopback import LOCAL, ask
from ..relay.policy import TaskIdentity

INTERVAL = 10  # seconds, as Metaflow's own sidecar
TIMEOUT = 10  # seconds for one beat
BAD = 400

log = logging.getLogger(__name__)


class Heartbeats:
    """Posts to the service for every task that runs."""

    def __init__(self, url_template: str) -> None:
        self._template = url_template
        self._tasks: set[TaskIdentity] = set()
        self._changed = threading.Condition()
        self._post = post_here if url_template.startswith(LOCAL) else poster()
        threading.Thread(target=self._run, name="heartbeats", daemon=True).start()

    def start(self, task: TaskIdentity) -> None:
        """Beat for ``task`` from now on."""
        with self._changed:
            self._tasks.add(task)
            self._changed.notify()

    def stop(self, task: TaskIdentity) -> None:
        """Beat no more for it; idempotent."""
        with self._changed:
            self._tasks.discard(task)

    def _run(self) -> None:
        beaten: set[TaskIdentity] = set()
        while True:
            with self._changed:
                # A task that has just started beats at once, the others every interval.
                if not self._tasks - beaten:
                    self._changed.wait(INTERVAL)
                    due = self._tasks - beaten or set(self._tasks)
                else:
                    due = self._tasks - beaten
                beaten = set(self._tasks)
            for task in due:
                self._beat(task)

    def _beat(self, task: TaskIdentity) -> None:
        url = self._template.format(
            flow_id=task.flow, run_number=task.run, step_name=task.step, task_id=task.task
        )
        try:
            status = self._post(url)
        except OSError as error:
            log.warning("heartbeat of %s: %s", task.key, error)
        else:
            if status >= BAD:
                log.warning("heartbeat of %s: %d from the service", task.key, status)


def post_here(url: str) -> int:
    """Beat once at a service on this machine; the status. Raises OSError."""
    return ask("POST", url, SERVICE_HEADERS, "{}").status_code


def poster() -> Callable[[str], int]:
    """What beats at a service elsewhere, as ``post_here`` does."""
    import requests

    session = requests.Session()

    def post(url: str) -> int:
        # Its errors are OSErrors.
        return session.post(url, data="{}", headers=dict(SERVICE_HEADERS), timeout=TIMEOUT).status_code

    return post
