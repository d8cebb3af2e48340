"""The SDK's client of this process, and its calls: each in a thread of its own, with a deadline."""

from __future__ import annotations

import concurrent.futures
import os
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import daytona

from ...errors import BackendUnavailable, CommandTimeout

T = TypeVar("T")
SETTINGS = (
    "DAYTONA_API_KEY",
    "DAYTONA_JWT_TOKEN",
    "DAYTONA_ORGANIZATION_ID",
    "DAYTONA_API_URL",
    "DAYTONA_TARGET",
)
DEFAULT_URL = "https://app.daytona.io/api"
ANSWER = 30.0  # seconds for what the control plane answers at once
_making = threading.Lock()
_clients: dict[tuple[str | None, ...], Any] = {}
_owner = os.getpid()


def client() -> Any:
    """The client for the settings in the environment; made once, since it keeps a thread and connections.

    Raises BackendUnavailable without a key, or after a fork.
    """
    if not (os.environ.get("DAYTONA_API_KEY") or os.environ.get("DAYTONA_JWT_TOKEN")):
        raise BackendUnavailable(
            "Daytona needs a key: make one in its dashboard and set DAYTONA_API_KEY in the environment"
        )
    settings = tuple(os.environ.get(name) for name in SETTINGS)
    with _making:
        if _clients and _owner != os.getpid():
            raise BackendUnavailable(
                "this process was forked from one that uses Daytona's SDK, which does not work after a fork: "
                "start it as a new process (multiprocessing's start method 'spawn')"
            )
        if settings not in _clients:
            try:
                _clients[settings] = call(daytona.Daytona, ANSWER)
            except (daytona.DaytonaError, CommandTimeout) as error:
                raise BackendUnavailable(f"Daytona's SDK does not accept its settings: {error}") from error
        return _clients[settings]


def url() -> str:
    """Where Daytona is."""
    return os.environ.get("DAYTONA_API_URL") or DEFAULT_URL


def call(action: Callable[[], T], deadline: float) -> T:
    """What it returns or raises. Raises CommandTimeout after ``deadline`` seconds, and lets it go on.

    In the main thread the SDK would cancel the user's alarm; elsewhere its timeouts are exceptions raised
    into the calling thread, sometimes late: that thread must not be one of ours.
    """
    answer: concurrent.futures.Future[T] = concurrent.futures.Future()

    def act() -> None:
        try:
            answer.set_result(action())
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            answer.set_exception(error)

    threading.Thread(target=act, name="daytona-call", daemon=True).start()
    try:
        return answer.result(deadline)
    except concurrent.futures.TimeoutError:
        # Raised by the SDK, it has the same class from Python 3.11 on.
        if answer.done():
            raise
        raise CommandTimeout(f"Daytona did not answer within {deadline:g} s") from None
