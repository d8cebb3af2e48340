"""Ends sandboxes by their id: by ``close`` and ``destroy``, or when their launcher is gone."""

from __future__ import annotations

import re
import time
from typing import Any

import daytona

from ...errors import CommandTimeout, SandboxError, SandboxLost
from . import failures
from .client import ANSWER, call, client
from .parameters import OURS

END = f"{__name__}:end"  # for the warden
ID = re.compile(r"metaflow-[0-9a-f]{16}\Z")
ENDED = ("destroyed", "destroying")
PATIENCE = 60.0  # seconds for Daytona to accept that a sandbox is to be removed


def end(*sandbox_ids: str) -> None:
    """Remove these sandboxes; idempotent. Raises SandboxLost when Daytona does not remove one of them."""
    failed = []
    for sandbox_id in sandbox_ids:
        try:
            remove(sandbox_id)
        except SandboxError as error:  # noqa: PERF203 -- that is the loop
            failed.append(str(error))
    if failed:
        raise SandboxLost("; ".join(failed))


def find(sandbox_id: str) -> Any:
    """The SDK's sandbox of that id, None when it is gone or none of ours. Raises DaytonaError."""
    if not ID.match(sandbox_id):
        return None
    sdk = client()
    try:
        found = call(lambda: sdk.get(sandbox_id, request_timeout=ANSWER), ANSWER)
    except daytona.DaytonaError as error:
        if failures.is_gone(error):
            return None
        raise
    return found if found.labels.get(OURS) == sandbox_id and state(found) not in ENDED else None


def state(sandbox: Any) -> str:
    """In Daytona's words."""
    return str(getattr(sandbox.state, "value", sandbox.state))


def remove(sandbox_id: str, patience: float = PATIENCE) -> None:
    """Remove a sandbox; idempotent.

    Raises SandboxLost when Daytona does not accept it, and BackendUnavailable when it refuses the key.
    """
    deadline = time.monotonic() + patience
    pause = 0.1
    while True:
        try:
            found = find(sandbox_id)
            if found is not None:
                call(lambda: found.delete(ANSWER), ANSWER)  # noqa: B023 - called at once
        except (daytona.DaytonaError, CommandTimeout) as error:  # noqa: PERF203 -- that is the loop
            if failures.is_gone(error):
                return
            if failures.is_definite(error) and getattr(error, "status_code", None) != 429:
                raise failures.refused(error) from error
            if time.monotonic() > deadline:
                raise SandboxLost(
                    f"Daytona does not remove {sandbox_id} ({error}): it ends there by itself at the latest "
                    "when its time to live is over, or delete it in Daytona's dashboard"
                ) from error
            # A conflict is a removal on its way, or a change of state before which it can't be removed.
            time.sleep(failures.retry_after(error) or pause)
            pause = min(2.0, pause * 2)
        else:
            return
