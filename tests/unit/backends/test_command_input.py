"""Standard input: everything is written, its end is told once, and a reader that went away is an error."""

from __future__ import annotations

import os
import threading

import pytest

from metaflow_extensions.sandbox.backends.command_input import CommandInput
from metaflow_extensions.sandbox.errors import SandboxLost, UnsupportedOption


def test_more_than_a_pipe_holds_arrives_whole() -> None:
    """Guards against a short write that loses the rest."""
    reader, writer = os.pipe()
    given, data = CommandInput(writer), os.urandom(1 << 20)
    sending = threading.Thread(target=lambda: (given.send(data), given.send(b"")))
    sending.start()
    with os.fdopen(reader, "rb") as pipe:
        assert pipe.read() == data
    sending.join()


def test_the_end_is_told_once() -> None:
    """Guards a descriptor that was given to somebody else meanwhile."""
    told: list[int] = []
    reader, writer = os.pipe()
    given = CommandInput(writer, lambda: told.append(1))
    given.send(b"")
    given.send(b"")
    given.close()
    assert told == [1]
    with pytest.raises(SandboxLost, match="has been closed"):
        given.send(b"more")
    os.close(reader)
    os.close(writer)


def test_nobody_reads() -> None:
    """Guards against a task that hangs or passes when its command has stopped reading."""
    reader, writer = os.pipe()
    os.close(reader)
    given = CommandInput(writer)
    with pytest.raises(SandboxLost, match="reads its standard input no more"):
        given.send(b"data")
    given.close()


def test_started_without() -> None:
    """Guards against input that vanishes."""
    with pytest.raises(UnsupportedOption, match=r"Command\(stdin=True\)"):
        CommandInput(None).send(b"data")
    CommandInput(None).close()
