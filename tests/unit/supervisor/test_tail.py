"""The end of a task's output, and those who look on."""

from __future__ import annotations

import socket

from metaflow_extensions.sandbox.supervisor.tail import KEPT, Tail

from ..relay.parts import WAIT


def everything(visitor: socket.socket) -> bytes:
    """All that comes until the connection ends."""
    visitor.settimeout(WAIT)
    found = b""
    while data := visitor.recv(65536):
        found += data
    return found


def test_the_end_is_kept() -> None:
    """Guards against a supervisor that keeps all of a flood, or nothing of it."""
    tail = Tail()
    for number in range(100_000):
        tail.add(b"%099d\n" % number)
    mine, theirs = socket.socketpair()
    with mine:
        tail.show(theirs, follow=False)
        kept = everything(mine)
    assert KEPT - 100 <= len(kept) <= KEPT
    assert kept.endswith(b"%099d\n" % 99_999)


def test_a_follower_sees_what_comes() -> None:
    """Guards against logs -f that ends early, or never."""
    tail = Tail()
    tail.add(b"before\n")
    mine, theirs = socket.socketpair()
    with mine:
        tail.show(theirs, follow=True)
        tail.add(b"after\n")
        tail.close()
        assert everything(mine) == b"before\nafter\n"


def test_a_slow_follower_is_left_behind() -> None:
    """Guards against a task that waits for whoever looks on and does not read."""
    tail = Tail()
    mine, theirs = socket.socketpair()
    gone, other = socket.socketpair()
    gone.close()
    with mine:
        tail.show(theirs, follow=True)
        tail.show(other, follow=True)
        for _ in range(2000):
            tail.add(b"x" * 1024)
        seen = everything(mine)
    assert 0 < len(seen) < 2000 * 1024
