"""Makes a sandbox: once, even when the answer is lost, and none when it fails."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import daytona

from ...errors import BackendUnavailable, CommandTimeout, SandboxLost, UnsupportedOption
from ..warden import Warden
from . import failures
from .client import ANSWER, call
from .leftovers import find, remove, state

FROM_IMAGE = 900.0  # seconds, in which Daytona may have to build
FROM_SNAPSHOT = 180.0
SETTLED = 5.0  # seconds after which a sandbox is there, if a call whose answer was lost has made one
WALLS = ("network_block_all", "network_allow_list", "domain_allow_list")
FAILED = ("error", "build_failed")


def create(sdk: Any, parameters: Any, tell: Callable[[str], None] | None, guard: Warden) -> Any:
    """The SDK's sandbox, started, and watched from before it is made.

    Raises UnsupportedOption, QuotaExceeded, BackendUnavailable or StartFailed.
    """
    # This process may be killed at any moment.
    guard.watch(parameters.name)
    try:
        made = _create(sdk, parameters, tell)
    except _Refused as refused:
        guard.forget(parameters.name)
        raise refused.failure from refused.__cause__
    # After another failure it stays watched: what is made later still is looked for when this process ends.
    ignored = _ignored(made, parameters)
    if ignored:
        remove(parameters.name)
        guard.forget(parameters.name)
        raise UnsupportedOption(
            f"Daytona made a sandbox without {' and '.join(ignored)}: it does not restrict the network for "
            "this organization; ask for network='public', or choose another backend"
        )
    return made


class _Refused(Exception):
    """A creation of which nothing can have come."""

    def __init__(self, failure: Exception) -> None:
        super().__init__(str(failure))
        self.failure = failure


def _create(sdk: Any, parameters: Any, tell: Callable[[str], None] | None) -> Any:
    image = getattr(parameters, "image", None)
    seconds = FROM_IMAGE if image else FROM_SNAPSHOT
    deadline = time.monotonic() + seconds
    shown = {"on_snapshot_create_logs": tell} if image and tell else {}
    try:
        return call(lambda: sdk.create(parameters, timeout=seconds, **shown), seconds)
    except (daytona.DaytonaError, CommandTimeout) as error:
        failure = failures.refused(error)
        if failures.is_definite(error):
            raise _Refused(failure) from error
        try:
            return _made(parameters.name, image or parameters.snapshot, deadline, failure)
        except BaseException:
            # Nothing more can be done here when that fails, too: Daytona ends what nobody calls.
            with contextlib.suppress(SandboxLost, BackendUnavailable):
                remove(parameters.name, SETTLED)
            raise


def _ignored(made: Any, parameters: Any) -> list[str]:
    """Walls around the network that were asked for and are not there."""
    asked = {name: getattr(parameters, name) for name in WALLS if getattr(parameters, name)}
    return [f"{name}={wall!r}" for name, wall in asked.items() if _parts(getattr(made, name)) != _parts(wall)]


def _parts(wall: bool | str | None) -> bool | set[str]:
    return {part.strip() for part in wall.split(",")} if isinstance(wall, str) else bool(wall)


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
