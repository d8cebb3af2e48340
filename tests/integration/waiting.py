"""Waiting for what other processes do."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE = 60.0  # seconds after which something hangs
POLL = 0.05  # seconds


def until(condition: Callable[[], object], what: str = "", within: float = PATIENCE) -> bool:
    """Wait for a condition. Raises AssertionError when it does not come true in time."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, f"after {within:g} s still no {what or condition}"
        time.sleep(POLL)
    return True
