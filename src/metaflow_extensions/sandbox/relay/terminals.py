"""Terminals in a sandbox: somebody at the launcher waits with a connection, a shell inside comes for it."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from typing import BinaryIO

from ..errors import RelayError

CHUNK = 64 * 1024  # bytes


class Terminals:
    """Those of one task, each told from what a step may send by a word that only its shell was told."""

    def __init__(self) -> None:
        self._waiting: dict[str, socket.socket] = {}
        self._lock = threading.Lock()

    def expect(self, visitor: socket.socket) -> str:
        """The word by which a shell gets this connection."""
        token = os.urandom(16).hex()
        with self._lock:
            self._waiting[token] = visitor
        return token

    def serve(self, token: str, reader: BinaryIO, writer: BinaryIO) -> None:
        """Join a shell's channel and the connection that waits for it, until one ends.

        Raises RelayError when none waits.
        """
        with self._lock:
            visitor = self._waiting.pop(token, None)
        if visitor is None:
            raise RelayError("a terminal that nobody has asked for")
        with visitor:
            threading.Thread(target=_show, args=(reader, visitor), daemon=True).start()
            with contextlib.suppress(OSError, ValueError):  # the shell has ended, and its channel is closed
                while typed := visitor.recv(CHUNK):
                    writer.write(typed)
                    writer.flush()

    def close(self) -> None:
        """Nobody comes any more."""
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        for visitor in waiting.values():
            visitor.close()


def _show(reader: BinaryIO, visitor: socket.socket) -> None:
    # Either may have gone: then the other is told.
    with contextlib.suppress(OSError, ValueError):
        while shown := reader.read1(CHUNK):  # type: ignore[attr-defined]  # a BufferedReader
            visitor.sendall(shown)
    with contextlib.suppress(OSError):
        visitor.shutdown(socket.SHUT_RDWR)
