"""The end of a task's output, kept for whoever comes to look while it runs, and all that follows."""

from __future__ import annotations

import socket
import threading
from collections import deque

KEPT = 64 * 1024  # bytes


class Tail:
    """Of one task; who looks on and does not keep up is left behind, never waited for."""

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._visitors: list[socket.socket] = []
        self._lock = threading.Lock()

    def add(self, data: bytes) -> None:
        """Take in what the task has written."""
        with self._lock:
            self._pieces.append(data)
            self._size += len(data)
            while self._size > KEPT and len(self._pieces) > 1:
                self._size -= len(self._pieces.popleft())
            self._visitors = [visitor for visitor in self._visitors if _sent(visitor, data)]

    def show(self, visitor: socket.socket, *, follow: bool) -> None:
        """Send what is kept; with ``follow`` also what comes, else close the connection."""
        visitor.setblocking(False)
        with self._lock:
            kept = b"".join(self._pieces)[-KEPT:]
            if _sent(visitor, kept) and follow:
                self._visitors.append(visitor)
            else:
                visitor.close()

    def close(self) -> None:
        """The task is over."""
        with self._lock:
            for visitor in self._visitors:
                visitor.close()
            self._visitors = []


def _sent(visitor: socket.socket, data: bytes) -> bool:
    try:
        visitor.sendall(data)
    except OSError:  # gone, or too slow
        visitor.close()
        return False
    return True
