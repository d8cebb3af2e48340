"""Terminals: the shell that was asked for gets the connection that waits, and nobody else does."""

from __future__ import annotations

import io
import os
import socket
import threading
from collections.abc import Iterator
from typing import BinaryIO

import pytest

from metaflow_extensions.sandbox.errors import RelayError
from metaflow_extensions.sandbox.relay.terminals import Terminals

from .parts import WAIT


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """(the visitor's end, the supervisor's end)."""
    mine, theirs = socket.socketpair()
    mine.settimeout(WAIT)
    with mine, theirs:
        yield mine, theirs


def channel(shown: bytes) -> tuple[BinaryIO, io.BytesIO]:
    """A shell's channel: what it shows, and where what is typed arrives."""
    return io.BufferedReader(io.BytesIO(shown)), io.BytesIO()  # type: ignore[arg-type]


def test_both_ways(ends: tuple[socket.socket, socket.socket]) -> None:
    """Guards against a shell that shows nothing, or gets nothing of what is typed."""
    mine, theirs = ends
    terminals = Terminals()
    token = terminals.expect(theirs)
    (shell, screen), keyboard = os.pipe(), io.BytesIO()
    with os.fdopen(shell, "rb") as reader, os.fdopen(screen, "wb", buffering=0) as shows:
        serving = threading.Thread(target=terminals.serve, args=(token, reader, keyboard))
        serving.start()
        shows.write(b"shown")
        assert mine.recv(100) == b"shown"
        mine.sendall(b"typed")
        mine.shutdown(socket.SHUT_WR)
        serving.join(WAIT)
    assert keyboard.getvalue() == b"typed"


def test_a_step_gets_no_terminal(ends: tuple[socket.socket, socket.socket]) -> None:
    """Guards against a step that takes the place of the shell, by a guess or a second time."""
    mine, theirs = ends
    terminals = Terminals()
    token = terminals.expect(theirs)
    mine.shutdown(socket.SHUT_RDWR)
    for guess in ("", "0" * len(token)):
        with pytest.raises(RelayError, match="nobody has asked for"):
            terminals.serve(guess, *channel(b""))
    terminals.serve(token, *channel(b""))
    with pytest.raises(RelayError, match="nobody has asked for"):
        terminals.serve(token, *channel(b""))


def test_who_still_waits_at_the_end_is_told(ends: tuple[socket.socket, socket.socket]) -> None:
    """Guards against a terminal that hangs when the task ends before the shell has come."""
    mine, theirs = ends
    terminals = Terminals()
    terminals.expect(theirs)
    terminals.close()
    assert mine.recv(1) == b""
