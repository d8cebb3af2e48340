"""How much one task has sent, in bytes and in pieces; every piece is a file in the launcher's datastore."""

from __future__ import annotations

import threading

from ..errors import RelayError
from .services import Limits

PIECE = 4 << 10  # bytes, the block of a common file system: an empty file is not free


class Budget:
    """Counts against the limits of a task; usable from several connections at once."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._bytes = 0
        self._pieces = 0
        self._paths: set[str] = set()
        self._lock = threading.Lock()

    def take(self, size: int) -> None:
        """Count bytes. Raises RelayError over the limit."""
        with self._lock:
            self._bytes += size
            if self._bytes > self._limits.task:
                raise RelayError(
                    f"the task has sent over {self._limits.task >> 20} MiB: "
                    "METAFLOW_SANDBOX_MAX_UPLOAD sets the limit, in MiB"
                )

    def take_pieces(self, number: int, size: int = 0) -> None:
        """Count objects or records, and their bytes. Raises RelayError over the limit."""
        with self._lock:
            self._pieces += number
            if self._pieces > self._limits.pieces:
                raise RelayError(f"the task has stored over {self._limits.pieces} objects and records")
        self.take(number * PIECE + size)

    def take_path(self, path: str) -> None:
        """Count a file that may be written again and again, such as a card, once."""
        with self._lock:
            if path in self._paths:
                return
            if len(self._paths) < self._limits.pieces:
                self._paths.add(path)
        self.take_pieces(1)
