"""How many sandboxes of a provider there may be at once, and how fast they may be made.

Set by the user, and learned from what the provider refuses: while more are waited for than may be, those
who came first are served first.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import TypeVar

from ..errors import QuotaExceeded, StartFailed

T = TypeVar("T")
TICK = 0.5  # seconds between looks at whether the task was cancelled
BACKOFF, MAX_BACKOFF = 1.0, 30.0  # seconds before the next try, where the provider names none
RISE_AFTER = 10.0  # seconds without a refusal before one more than learned is tried
SAY_AFTER, SAY_EVERY = 2.0, 60.0  # seconds of waiting before the user is told, and told again
PATIENCE = 600.0  # seconds of refusals while there is no sandbox of this run that could make room


class Governor:
    """Of one provider's account in a run; ``limit`` sandboxes at once and ``rate`` a second, None for any."""

    def __init__(self, name: str, limit: int | None = None, rate: float | None = None) -> None:
        self._name = name
        self._most = limit
        self._rate = rate
        self._learned: int | None = None
        self._live = 0
        self._refusals = 0
        self._refused_at = 0.0
        self._refusal = ""
        self._not_before = 0.0
        self._alone_since = 0.0
        self._queue: deque[object] = deque()
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def sandbox(
        self, make: Callable[[], T], tell: Callable[[str], None], cancelled: Callable[[], bool]
    ) -> Iterator[T]:
        """What ``make`` returns once there is room for it; its place is another's when the context ends.

        Raises what ``make`` raises, QuotaExceeded only when waiting is of no use any more, and StartFailed
        when the task was cancelled meanwhile.
        """
        made = self._make(make, tell, cancelled)
        try:
            yield made
        finally:
            with self._changed:
                self._live -= 1
                self._changed.notify_all()

    def _make(self, make: Callable[[], T], tell: Callable[[str], None], cancelled: Callable[[], bool]) -> T:
        ticket, since = object(), time.monotonic()
        with self._changed:
            self._queue.append(ticket)
        try:
            while True:
                self._await_turn(ticket, tell, cancelled, since)
                try:
                    made = make()
                except QuotaExceeded as error:
                    self._refuse(ticket, error)
                except BaseException:
                    with self._changed:
                        self._live -= 1
                        self._changed.notify_all()
                    raise
                else:
                    self._succeed()
                    return made
        finally:
            with self._changed, contextlib.suppress(ValueError):  # it has had its turn
                self._queue.remove(ticket)
                self._changed.notify_all()

    def _await_turn(
        self, ticket: object, tell: Callable[[str], None], cancelled: Callable[[], bool], since: float
    ) -> None:
        told = since - SAY_EVERY + SAY_AFTER
        while True:
            with self._changed:
                now = time.monotonic()
                pause = min(TICK, max(0.0, self._not_before - now))
                if self._queue[0] is ticket and self._has_room() and not pause:
                    self._queue.popleft()
                    self._live += 1
                    if self._rate:
                        self._not_before = now + 1 / self._rate
                    self._changed.notify_all()
                    return
                line = self._why()
                self._changed.wait(pause or TICK)
            if cancelled():
                raise StartFailed("the task was cancelled while it waited for a sandbox")
            if time.monotonic() - told >= SAY_EVERY:
                told = time.monotonic()
                tell(line)

    def _has_room(self) -> bool:
        limits = [limit for limit in (self._most, self._learned) if limit is not None]
        return not limits or self._live < min(limits)

    def _why(self) -> str:
        waiting = f"{len(self._queue)} wait for a sandbox of {self._name}"
        if self._has_room():
            reason = f"it makes {self._rate:g} a second" if self._rate else f"it says: {self._refusal}"
            return f"{waiting}: {reason}"
        if self._most is not None and self._live >= self._most:
            return f"{waiting}: {self._live} run, the limit of METAFLOW_SANDBOX_MAX_SANDBOXES"
        return f"{waiting}: {self._live} run, and it says: {self._refusal}"

    def _refuse(self, ticket: object, error: QuotaExceeded) -> None:
        """Go back to the head of the queue. Raises QuotaExceeded when nothing of this run can make room."""
        with self._changed:
            now = time.monotonic()
            self._live -= 1
            self._refusals += 1
            self._refusal = str(error)
            self._alone_since = (self._alone_since or now) if not self._live else 0.0
            if self._alone_since and now - self._alone_since > PATIENCE:
                raise error
            self._learned = max(1, self._live)
            self._refused_at = now
            backoff = min(MAX_BACKOFF, BACKOFF * 2 ** min(self._refusals - 1, 10))
            self._not_before = max(self._not_before, now + (error.retry_after or backoff))
            self._queue.appendleft(ticket)
            self._changed.notify_all()

    def _succeed(self) -> None:
        with self._changed:
            self._refusals, self._alone_since = 0, 0.0
            if self._learned is not None and time.monotonic() - self._refused_at > RISE_AFTER:
                self._learned += 1
            elif self._learned is not None:
                self._learned = max(self._learned, self._live)
            self._changed.notify_all()
