"""One event loop in one thread of this process, for SDKs that can only be awaited.

    calls = loop()
    answer = calls.call(sdk.ask(), deadline=30)     # from any thread but the loop's
    task = calls.start(watch())                     # goes on by itself

Such SDKs run threads of their own. A fork does not copy them: what was started before it hangs after it. And
one that has something to pass on while the interpreter ends aborts it, whatever its exit code was to be.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import os
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from ..errors import BackendUnavailable, CommandTimeout

T = TypeVar("T")
SETTLED = 0.05  # seconds in which no thread did anything
LONGEST = 5.0  # seconds; from then on an abort is risked
TASKS = Path("/proc/self/task")
_making = threading.Lock()
_of_process: AsyncCalls | None = None


class AsyncCalls:
    """A loop that runs for as long as the process; use ``loop()`` to get it."""

    def __init__(self) -> None:
        self._owner = os.getpid()
        self._loop = asyncio.new_event_loop()
        # A daemon: what an SDK never answers must not keep the interpreter from ending.
        self._thread = threading.Thread(target=self._loop.run_forever, name="async-calls", daemon=True)
        self._thread.start()
        # Runs after the handlers that are registered later, such as those that close what uses the loop.
        atexit.register(settle)

    def call(self, awaited: Awaitable[T] | Callable[[], Awaitable[T]], deadline: float) -> T:
        """What it returns or raises. Raises CommandTimeout after ``deadline`` seconds, and cancels it.

        A function is called in the loop's thread, for SDKs whose calls need a running loop already.
        """
        task = self.start(awaited)
        try:
            return task.result(deadline)
        except concurrent.futures.TimeoutError:
            # Raised by what was awaited, it has the same class from Python 3.11 on.
            if task.done():
                raise
            task.cancel()
            raise CommandTimeout(f"there was no answer within {deadline:g} s") from None

    def start(self, awaited: Awaitable[T] | Callable[[], Awaitable[T]]) -> concurrent.futures.Future[T]:
        """Let it run by itself. Raises BackendUnavailable after a fork, where it would never be done."""
        if self._owner != os.getpid():
            raise BackendUnavailable(
                "this process was forked from one that uses the same SDK, which does not work after a fork: "
                "start it as a new process (multiprocessing's start method 'spawn')"
            )
        if threading.current_thread() is self._thread:
            raise ValueError("the loop's own thread would wait for itself: await instead")
        return asyncio.run_coroutine_threadsafe(_awaiting(awaited), self._loop)

    def soon(self, action: Callable[..., object], *arguments: Any) -> None:
        """Call it in the loop's thread, after what was asked for before; returns at once."""
        self._loop.call_soon_threadsafe(action, *arguments)


def loop() -> AsyncCalls:
    """The loop of this process, started by the first who asks; a forked process has its parent's: refused."""
    global _of_process
    with _making:
        if _of_process is None:
            _of_process = AsyncCalls()
        return _of_process


def settle() -> None:
    """Wait until every other thread of this process is idle, or where that can't be seen, a little."""
    if not TASKS.is_dir():
        time.sleep(4 * SETTLED)
        return
    deadline = time.monotonic() + LONGEST
    before = None
    while time.monotonic() < deadline:
        now = _work()
        if now is not None and now == before:
            return
        before = now
        time.sleep(SETTLED)


def _work() -> dict[str, tuple[bytes, bytes]] | None:
    """What each other thread has worked so far, None while one is at work."""
    found = {}
    for task in TASKS.iterdir():
        if task.name == str(threading.get_native_id()):
            continue
        try:
            fields = (task / "stat").read_bytes().rpartition(b")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended
        if fields[0] == b"R":
            return None
        found[task.name] = (fields[11], fields[12])
    return found


def _awaiting(awaited: Awaitable[T] | Callable[[], Awaitable[T]]) -> Coroutine[Any, Any, T]:
    async def wait() -> T:
        return await (awaited() if callable(awaited) else awaited)

    return wait()
