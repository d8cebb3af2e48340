"""Makes a sandbox: once, even when the answer is lost, and none when it fails."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import daytona

from ...errors import BackendUnavailable, CommandTimeout, SandboxLost
from ..warden import Warden
from . import failures
from .client import ANSWER, call
from .leftovers import find, remove, state

FROM_IMAGE = 900.0  # seconds, in which Daytona may have to build
FROM_SNAPSHOT = 180.0
SETTLED = 5.0  # seconds after which a sandbox is there, if a call whose answer was lost has made one
FAILED = ("error", "build_failed")


def create(sdk: Any, parameters: Any, tell: Callable[[str], None] | None, guard: Warden) -> Any:
    """The SDK's sandbox, started, and watched from before it is made.

    Raises UnsupportedOption, QuotaExceeded, BackendUnavailable or StartFailed.
    """
    image = getattr(parameters, "image", None)
    seconds = FROM_IMAGE if image else FROM_SNAPSHOT
    deadline = time.monotonic() + seconds
    shown = {"on_snapshot_create_logs": tell} if image and tell else {}
    # This process may be killed at any moment.
    guard.watch(parameters.name)
    try:
        return call(lambda: sdk.create(parameters, timeout=seconds, **shown), seconds)
    except (daytona.DaytonaError, CommandTimeout) as error:
        failure = failures.refused(error)
        if failures.is_definite(error):
            guard.forget(parameters.name)
            raise failure from error
        try:
            return _made(parameters.name, image or parameters.snapshot, deadline, failure)
        except BaseException:
            # It may fail, too, and what is made later still is not there yet. So it stays watched: it is
            # looked for again when this process ends. And Daytona ends what nobody calls.
            with contextlib.suppress(SandboxLost, BackendUnavailable):
                remove(parameters.name, SETTLED)
            raise


def _made(name: str, image: str, deadline: float, failure: Exception) -> Any:
    """The sandbox of a call that seemed to fail. Raises the failure when there is none."""
    settled = time.monotonic() + SETTLED
    found = None
    while found is None:
        try:
            found = find(name)
        except (daytona.DaytonaError, CommandTimeout) as error:
            if time.monotonic() > settled:
                raise failure from error
        if found is None:
            if time.monotonic() > settled:
                raise failure
            time.sleep(0.25)
    if state(found) in FAILED:
        raise failures.broken(str(found.error_reason), image) from failure
    left = deadline - time.monotonic()
    if left <= 0:
        raise failure
    try:
        call(lambda: found.wait_for_sandbox_start(left), left)
    except (daytona.DaytonaError, CommandTimeout) as error:
        with contextlib.suppress(daytona.DaytonaError, CommandTimeout):
            call(lambda: found.refresh_data(ANSWER), ANSWER)
        if state(found) in FAILED:
            raise failures.broken(str(found.error_reason), image) from error
        raise failure from error
    return found
