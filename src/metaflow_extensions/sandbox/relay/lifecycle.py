"""The guest's first process, as the relay sees it: the step's start, signals to it, terminals, its end."""

from __future__ import annotations

import socket
import threading
from typing import Any, BinaryIO

from ..errors import RelayError
from ..guest.frames import ChannelClosed, encode_frame
from .arguments import integer, optional_number, text
from .services import Witness
from .terminals import Terminals

Header = dict[str, Any]


class Lifecycle:
    """Of one attempt; ``keep`` asks the guest of a step that fails to stay."""

    def __init__(self, witness: Witness, *, keep: bool) -> None:
        self._witness = witness
        self._keep = keep
        self._channel: BinaryIO | None = None
        self._starting = False
        self._lock = threading.Lock()
        self._heard_out = threading.Event()
        self._terminals = Terminals()

    def heard_out(self, timeout: float) -> None:
        """Wait, at most so many seconds, until all that the guest's first process said is taken in."""
        self._heard_out.wait(timeout)

    def closed(self, writer: BinaryIO) -> None:
        """That channel was closed."""
        if writer is self._channel:
            self._heard_out.set()

    def close(self) -> None:
        """Let nobody wait for a terminal any more."""
        self._terminals.close()

    def signal(self, number: int) -> bool:
        """Ask the guest to deliver a signal to the step; False when there is no guest to ask."""
        return self._tell({"signal": number})

    def open_terminal(self, visitor: socket.socket, term: str, rows: int, columns: int) -> bool:
        """Ask the guest for a shell that speaks with ``visitor``; False when there is no guest to ask."""
        token = self._terminals.expect(visitor)
        return self._tell({"terminal": token, "term": term, "rows": rows, "columns": columns})

    def _tell(self, header: Header) -> bool:
        with self._lock:
            if self._channel is None:
                return False
            try:
                self._channel.write(encode_frame(header))
                self._channel.flush()
            except (OSError, ValueError):
                return False
            return True

    # --- the guest's requests -----------------------------------------------------------------

    def started(self, _header: Header, _reader: BinaryIO, writer: BinaryIO) -> None:
        """Let the step start, once."""
        with self._lock:
            # The guest's first process says so before it starts the step: whoever says it later is the step.
            if self._starting:
                raise RelayError("the step is said to start a second time")
            self._starting = True
        self._witness.starting()
        with self._lock:
            # The guest waits for this frame; signals may follow it, never come before.
            writer.write(encode_frame({"keep": True} if self._keep else {}))
            writer.flush()
            self._channel = writer
        self._witness.started()

    def ended(self, header: Header, _reader: BinaryIO, writer: BinaryIO) -> None:
        """Take in how the step ended."""
        if writer is not self._channel:
            raise RelayError("the step is said to have ended by another than what started it")
        self._witness.ended(
            None if header.get("signal") is None else integer(header, "signal"),
            optional_number(header, "peak_memory"),
            optional_number(header, "cpu_time"),
        )
        if self._keep and header.get("kept") is True:
            self._witness.kept()

    def terminal(self, header: Header, reader: BinaryIO, writer: BinaryIO) -> None:
        """Be the channel of a terminal from here on."""
        self._terminals.serve(text(header, "token"), reader, writer)
        raise ChannelClosed("the terminal was closed")
