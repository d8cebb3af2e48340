"""The one thread that waits for everything."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from metaflow_extensions.sandbox.supervisor.watcher import Watcher

from ..relay.parts import WAIT, settle


@pytest.fixture
def watcher() -> Iterator[Watcher]:
    made = Watcher()
    yield made
    made.stop()


def soon() -> float:
    return time.monotonic() + 0.02


def test_a_socket_that_is_readable(watcher: Watcher) -> None:
    """Guards against data, or an end, that nobody is called for."""
    ours, theirs = socket.socketpair()
    heard: list[bytes] = []
    watcher.watch(ours, lambda: heard.append(ours.recv(10)))
    theirs.send(b"a")
    settle(lambda: heard == [b"a"])
    theirs.close()
    settle(lambda: heard[-1] == b"")
    watcher.forget(ours)
    settle(lambda: ours.fileno() == -1)


def test_forgetting(watcher: Watcher) -> None:
    """Guards against callbacks for what is forgotten, and against a second time being an error."""
    ours, theirs = socket.socketpair()
    watcher.watch(ours, lambda: pytest.fail("it was forgotten"))
    watcher.forget(ours)
    settle(lambda: ours.fileno() == -1)
    theirs.close()
    watcher.forget(ours)
    never, other = socket.socketpair()
    watcher.forget(never)
    settle(lambda: never.fileno() == -1)
    other.close()


def test_forgetting_from_within(watcher: Watcher) -> None:
    """Guards against a callback that waits for its own thread."""
    ours, theirs = socket.socketpair()
    watcher.watch(ours, lambda: watcher.forget(ours))
    theirs.send(b"a")
    settle(lambda: ours.fileno() == -1)
    theirs.close()


def test_a_closed_socket_is_not_watched(watcher: Watcher) -> None:
    """Guards against a socket that was closed before the watcher came to it."""
    ours, theirs = socket.socketpair()
    ours.close()
    watcher.watch(ours, lambda: pytest.fail("it is closed"))
    called = threading.Event()
    watcher.call_at(soon(), called.set)
    assert called.wait(WAIT)
    theirs.close()


def test_times_in_their_order(watcher: Watcher) -> None:
    """Guards against a deadline that waits for a later one."""
    order: list[int] = []
    now = time.monotonic()
    watcher.call_at(now + 3600, lambda: order.append(9))
    for number in (3, 1, 2):
        watcher.call_at(now + number * 0.02, lambda number=number: order.append(number))  # type: ignore[misc]
    watcher.call_at(now - 5, lambda: order.append(0))
    settle(lambda: len(order) == 4)
    assert order == [0, 1, 2, 3]


def test_no_call_before_its_time(watcher: Watcher) -> None:
    """Guards against a task that is ended too early."""
    when: list[float] = []
    due = time.monotonic() + 0.05
    watcher.call_at(due, lambda: when.append(time.monotonic()))
    settle(lambda: when)
    assert when[0] >= due


def test_calling_off(watcher: Watcher) -> None:
    """Guards against deadlines of tasks that are over, which would keep them in memory for days."""
    kept: list[int] = []
    late = soon() + 0.5  # for a machine that has much else to do
    calls_off = [watcher.call_at(late, lambda: pytest.fail("called off")) for _ in range(100)]
    watcher.call_at(late + 0.05, lambda: kept.append(1))
    for call_off in calls_off:
        call_off()
        call_off()
    settle(lambda: kept == [1])
    assert watcher._deadlines == []


def test_a_callback_that_fails(watcher: Watcher) -> None:
    """Guards against one failure, such as a lack of descriptors, ending the waiting for everything."""
    ours, theirs = socket.socketpair()

    def fail() -> None:
        raise OSError(24, "Too many open files")

    watcher.watch(ours, fail)
    theirs.send(b"a")
    watcher.call_at(soon(), fail)
    called = threading.Event()
    watcher.call_at(soon() + 0.02, called.set)
    assert called.wait(WAIT)
    watcher.forget(ours)
    settle(lambda: ours.fileno() == -1)
    theirs.close()


def test_many_threads(watcher: Watcher) -> None:
    """Guards against changes lost where many tasks come and go at once."""
    heard: list[int] = []
    pairs = [socket.socketpair() for _ in range(64)]

    def task(number: int) -> None:
        ours, theirs = pairs[number]
        watcher.watch(ours, lambda: (ours.recv(1), heard.append(number)))
        theirs.send(b"a")

    threads = [threading.Thread(target=task, args=(number,)) for number in range(64)]
    for thread in threads:
        thread.start()
    settle(lambda: sorted(heard) == list(range(64)))
    for ours, theirs in pairs:
        watcher.forget(ours)
        theirs.close()


def test_stopping() -> None:
    """Guards against descriptors that outlive the watcher."""
    watcher = Watcher()
    ours, theirs = socket.socketpair()
    watcher.watch(ours, lambda: None)
    settle(lambda: len(watcher._selector.get_map()) == 2)
    watcher.stop()
    assert ours.fileno() == -1
    theirs.close()
