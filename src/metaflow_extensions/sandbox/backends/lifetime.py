"""How long a sandbox lasts: until it is closed, its time is over, or another process destroys it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ..errors import SandboxLost


class Known(Protocol):
    """What is known of a sandbox on this machine, such as its LocalState."""

    @property
    def id(self) -> str:
        """The sandbox's."""

    def exists(self) -> bool:
        """Whether nobody destroyed it."""


@dataclass(frozen=True)
class Elsewhere:
    """A sandbox that only its provider knows: that it was destroyed is learned by using it."""

    id: str

    def exists(self) -> bool:
        """As far as this machine knows."""
        return True


class Lifetime:
    """``expire`` is called once ``seconds`` are over, never for None, unless the sandbox is closed before."""

    def __init__(self, state: Known, seconds: float | None, expire: Callable[[], None]) -> None:
        self._state = state
        self._seconds = seconds
        self._expire = expire
        self._reason: str | None = None
        self.closed = False
        self._timer = threading.Timer(seconds, self._end) if seconds else None
        if self._timer:
            self._timer.daemon = True
            self._timer.start()

    def check(self) -> None:
        """Raise SandboxLost unless the sandbox can be used."""
        reason = self.why_lost()
        if reason or self.closed:
            raise SandboxLost(reason or f"sandbox {self._state.id} was closed: open a new one")

    def why_lost(self) -> str | None:
        """Why the sandbox went away from under its commands, None when it did not."""
        if self._reason:
            return self._reason
        if self.closed or self._state.exists():
            return None
        return f"sandbox {self._state.id} was destroyed by another process: open a new one"

    def lose(self, reason: str) -> None:
        """It went away for another reason."""
        self._reason = self._reason or reason

    def close(self) -> bool:
        """The sandbox is being closed; whether it already was."""
        if self._timer:
            self._timer.cancel()
        closed, self.closed = self.closed, True
        return closed

    def _end(self) -> None:
        self.lose(f"sandbox {self._state.id} passed its lifetime of {self._seconds} s: ask for a longer one")
        self._expire()
