"""``shell``: a shell in a sandbox that runs, or that was kept."""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import shutil
import socket
import sys
import termios
import tty
from collections.abc import Iterator

from ..supervisor.visits import SHELL
from . import sandboxes
from .kill import chosen_by_id
from .table import warn
from .visiting import visit

CHUNK = 64 * 1024  # bytes
AGAIN = 0.5  # seconds
END_OF_TRANSMISSION = b"\x04"  # what Ctrl-D sends


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument("id", metavar="ID", help="a sandbox's id, or how it begins")
    sandboxes.add_arguments(parser)


def main(options: argparse.Namespace) -> int:
    """Connect the terminal, until the shell or the sandbox ends."""
    (sandbox,) = chosen_by_id([options.id], sandboxes.find_here(options))
    columns, rows = shutil.get_terminal_size()
    with visit(sandbox, SHELL, [os.environ.get("TERM", "dumb"), str(rows), str(columns)]) as connection:
        if os.isatty(0):
            warn(f"A shell in {sandbox.id}: what it shows comes from inside. Ctrl-D ends it.")
        with _raw():
            _pump(connection)
    return 0


@contextlib.contextmanager
def _raw() -> Iterator[None]:
    """Let the terminal inside see every key, Ctrl-C included."""
    if not os.isatty(0):
        yield
        return
    before = termios.tcgetattr(0)
    tty.setraw(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


def _pump(connection: socket.socket) -> None:
    sources = [0, connection.fileno()]
    sys.stdout.flush()
    ended = False
    while True:
        ready, _, _ = select.select(sources, [], [], AGAIN if ended else None)
        if ended and not ready:
            # A shell that is still setting up its terminal throws away what was typed before.
            _type(connection, END_OF_TRANSMISSION)
        if connection.fileno() in ready:
            shown = _received(connection)
            if not shown:
                return
            _write(shown)
        if 0 in ready:
            typed = os.read(0, CHUNK)
            if not typed:
                sources.remove(0)
                ended = True
            _type(connection, typed)


def _type(connection: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):  # it has ended, which the other direction says
        connection.sendall(data)


def _received(connection: socket.socket) -> bytes:
    with contextlib.suppress(ConnectionResetError):
        return connection.recv(CHUNK)
    return b""


def _write(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]
