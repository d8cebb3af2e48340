"""Input on its way: put together, in order, sent again from where it was taken."""

from __future__ import annotations

import threading

import pytest

pytest.importorskip("daytona", reason="the SDK is missing: pip install daytona")

from metaflow_extensions.sandbox.backends.daytona.feeder import HELD, Feeder
from metaflow_extensions.sandbox.errors import SandboxError, SandboxLost
from metaflow_extensions.sandbox.guest.holder import END, SEND

PATIENCE = 30.0  # seconds


class Command:
    """Takes at most ``most`` bytes of a call, once it is let."""

    def __init__(self, most: int = 1 << 30) -> None:
        self.most = most
        self.calls: list[tuple[int, int, bytes]] = []
        self.let = threading.Event()
        self.ended = threading.Event()
        self.failed: list[SandboxError] = []

    def ask(self, what: int, offset: int, data: bytes, _wait: float) -> int:
        """As a holder answers."""
        assert self.let.wait(PATIENCE)
        self.calls.append((what, offset, data))
        if what == END:
            self.ended.set()
        return offset + len(data[: self.most])


def test_what_is_sent_meanwhile_goes_along() -> None:
    """Guards against one call for each frame of the relay."""
    command = Command()
    feeder = Feeder(command.ask, command.failed.append)
    feeder.send(b"a")
    for _ in range(50):
        feeder.send(b"b")
    feeder.send(b"")
    command.let.set()
    assert command.ended.wait(PATIENCE)
    assert len(command.calls) <= 3
    assert b"".join(data for what, _, data in command.calls if what == SEND) == b"a" + b"b" * 50


def test_what_was_not_taken_is_sent_again() -> None:
    """Guards against bytes lost, doubled or out of order when a command takes a part."""
    command = Command(most=3)
    command.let.set()
    feeder = Feeder(command.ask, command.failed.append)
    feeder.send(b"0123456789")
    feeder.send(b"")
    assert command.ended.wait(PATIENCE)
    taken = bytearray()
    for what, offset, data in command.calls:
        if what == SEND:
            assert offset == len(taken)
            taken += data[:3]
    assert taken == b"0123456789"


def test_a_sender_waits_and_is_woken_by_the_end() -> None:
    """Guards the launcher's memory, and against a thread that hangs with its command."""
    command = Command()
    feeder = Feeder(command.ask, command.failed.append)
    lost = threading.Event()

    def send() -> None:
        try:
            feeder.send(bytes(3 * HELD))
        except SandboxLost:
            lost.set()

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    sender.join(0.2)
    assert sender.is_alive()
    feeder.stop()
    command.let.set()
    assert lost.wait(PATIENCE)


def test_nothing_follows_the_end() -> None:
    """Guards against input that is dropped without a word."""
    command = Command()
    feeder = Feeder(command.ask, command.failed.append)
    feeder.send(b"")
    feeder.send(b"")
    with pytest.raises(SandboxLost):
        feeder.send(b"more")
    command.let.set()


def test_a_lost_sandbox_is_told() -> None:
    """Guards against a thread that dies and leaves its command waiting."""

    def ask(_what: int, _offset: int, _data: bytes, _wait: float) -> int:
        raise SandboxLost("gone")

    told = threading.Event()
    Feeder(ask, lambda _error: told.set()).send(b"x")
    assert told.wait(PATIENCE)
