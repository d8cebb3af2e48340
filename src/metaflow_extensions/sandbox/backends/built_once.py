"""What is built in an account once, by the first of all threads that ask for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from ..errors import SandboxError, StartFailed


class BuiltOnce:
    """What this process knows to be there, by its name."""

    def __init__(self) -> None:
        self._changing = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        self._ready: set[str] = set()
        self._failed: dict[str, tuple[float, SandboxError]] = {}

    def ensure(
        self, name: str, there: Callable[[], bool], build: Callable[[], None], *, anew: bool = False
    ) -> None:
        """Have it there: ``there`` asks the account, ``build`` makes it.

        ``anew``: it is not, whatever is known. Raises the SandboxError of either, also to those who waited
        for the one who met it; whoever comes later tries again.
        """
        asked = time.monotonic()
        with self._changing:
            lock = self._locks.setdefault(name, threading.Lock())
            if anew:
                self._ready.discard(name)
        with lock:
            if name in self._ready:
                return
            failed, error = self._failed.get(name, (0.0, StartFailed("")))
            if failed > asked:
                raise error
            try:
                if anew or not there():
                    build()
            except SandboxError as error:
                self._failed[name] = (time.monotonic(), error)
                raise
            self._ready.add(name)
