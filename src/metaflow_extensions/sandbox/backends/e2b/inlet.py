"""Frames on their way to a loader: numbered, sent together, and sent again until somebody confirms them."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable

from ...guest.exec_loader import HEAD

BATCH = 512 * 1024  # bytes in one request
PAUSE, LONGEST_PAUSE = 0.1, 5.0  # seconds between two tries


class Inlet:
    """For the thread of one loop; ``give`` sends bytes, and says whether it is certain that they arrived."""

    def __init__(self, give: Callable[[bytes], Awaitable[bool]]) -> None:
        self._give = give
        self._queue: deque[bytes] = deque()
        self._queued, self._drained = asyncio.Event(), asyncio.Event()
        self._sent = 0

    def send(self, kind: int, payload: bytes = b"") -> None:
        """Queue one frame."""
        self._sent += 1
        self._queue.append(HEAD.pack(kind, self._sent, len(payload)) + payload)
        self._drained.clear()
        self._queued.set()

    async def run(self) -> None:
        """Send what is queued, until cancelled; the loader drops what comes twice."""
        while True:
            if not self._queue:
                self._queued.clear()
                self._drained.set()
                await self._queued.wait()
            batch = bytearray()
            while self._queue and len(batch) < BATCH:
                batch += self._queue.popleft()
            pause = PAUSE
            while not await self._give(bytes(batch)):
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    async def drain(self, patience: float) -> None:
        """Wait until all is sent, for so many seconds at the most."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._drained.wait(), patience)
