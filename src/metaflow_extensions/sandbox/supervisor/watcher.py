"""One thread that waits for everything: connections, shims that go away, deadlines."""

from __future__ import annotations

import heapq
import itertools
import logging
import selectors
import socket
import threading
import time
from collections.abc import Callable

PAUSE = 0.05  # seconds

Callback = Callable[[], None]

log = logging.getLogger(__name__)


class Watcher:
    """Calls back when a socket is readable or a time has come; callbacks are short and never block."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._changes: list[Callback] = []
        self._deadlines: list[tuple[float, int, Callback]] = []
        self._order = itertools.count()
        self._lock = threading.Lock()
        self._waker, self._awake = socket.socketpair()
        self._awake.setblocking(False)
        self._selector.register(self._awake, selectors.EVENT_READ, self._woken)
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)
        self._thread.start()

    def watch(self, watched: socket.socket, callback: Callback) -> None:
        """Call back whenever ``watched`` is readable or closed."""
        self._change(lambda: self._register(watched, callback))

    def forget(self, watched: socket.socket) -> None:
        """Stop watching and close the socket; idempotent."""
        self._change(lambda: self._unregister(watched))

    def call_at(self, when: float, callback: Callback) -> Callback:
        """Call back at ``when``, in seconds of the monotonic clock; what is returned calls it off."""
        deadline = (when, next(self._order), callback)
        with self._lock:
            heapq.heappush(self._deadlines, deadline)
        self._wake()
        return lambda: self._call_off(deadline)

    def _call_off(self, deadline: tuple[float, int, Callback]) -> None:
        with self._lock:
            if deadline in self._deadlines:
                self._deadlines.remove(deadline)
                heapq.heapify(self._deadlines)

    def stop(self) -> None:
        """End the thread."""
        self._stopped = True
        self._wake()
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            self._unregister(key.fileobj)  # type: ignore[arg-type]  # only sockets are registered
        self._selector.close()
        self._waker.close()

    def _register(self, watched: socket.socket, callback: Callback) -> None:
        if watched.fileno() >= 0:
            self._selector.register(watched, selectors.EVENT_READ, callback)

    def _unregister(self, watched: socket.socket) -> None:
        if watched.fileno() >= 0:
            if watched in self._selector.get_map():
                self._selector.unregister(watched)
            watched.close()

    def _change(self, change: Callback) -> None:
        if threading.current_thread() is self._thread:
            change()
            return
        with self._lock:
            self._changes.append(change)
        self._wake()

    def _wake(self) -> None:
        self._waker.send(b"\0")

    def _woken(self) -> None:
        self._awake.recv(4096)
        with self._lock:
            changes, self._changes = self._changes, []
        for change in changes:
            change()

    def _run(self) -> None:
        while not self._stopped:
            for key, _ in self._selector.select(self._next_deadline()):
                call(key.data)
            for callback in self._due():
                call(callback)

    def _next_deadline(self) -> float | None:
        with self._lock:
            return max(0.0, self._deadlines[0][0] - time.monotonic()) if self._deadlines else None

    def _due(self) -> list[Callback]:
        due = []
        with self._lock:
            while self._deadlines and self._deadlines[0][0] <= time.monotonic():
                due.append(heapq.heappop(self._deadlines)[2])
        return due


def call(callback: Callback) -> None:
    """Call back; no failure, such as a lack of descriptors, may end the one thread that waits."""
    try:
        callback()
    except Exception:
        log.exception("a callback failed")
        # What is ready stays ready: without a pause this would be all that the process does.
        time.sleep(PAUSE)
