"""How a task ends, and how often it is tried."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import SandboxError, SandboxLost, StartFailed

BACKOFF = 1.0  # seconds before the second try, doubled for each further one
MAX_BACKOFF = 60.0  # seconds


@dataclass(frozen=True)
class Outcome:
    """How a task ended, for its shim: an exit code, or the signal that ended the step."""

    code: int
    signal: int = 0

    def __str__(self) -> str:
        return f"ended by signal {self.signal}" if self.signal else f"exit code {self.code}"


def tried(
    attempt: Callable[[], Outcome],
    tries: int,
    is_last: Callable[[], bool],
    again: Callable[[SandboxError, int, float], bool],
) -> Outcome:
    """The outcome of the first attempt that neither fails to start nor loses its sandbox.

    ``again`` is told of a failure, its number and the pause in seconds, waits, and says whether nobody
    wants another try any more. Raises what an attempt raises, and what the last of them raises.
    """
    for number in range(1, tries + 1):
        try:
            return attempt()
        except (StartFailed, SandboxLost) as error:  # noqa: PERF203 -- that is the loop
            if is_last() or number == tries:
                raise
            # Jitter, so that the tasks of a foreach do not come back all at once.
            pause = min(MAX_BACKOFF, BACKOFF * 2 ** (number - 1)) * random.uniform(0.5, 1.5)  # noqa: S311
            if again(error, number, pause):
                raise
    raise AssertionError("unreachable")
