"""The loader of a command, spoken to over its own streams: above all what it does when connections break."""

from __future__ import annotations

import binascii
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metaflow_extensions.sandbox.guest import exec_loader
from metaflow_extensions.sandbox.guest.exec_loader import (
    ALIVE,
    BYE,
    COUNT,
    END_IN,
    GIVEN,
    HEAD,
    IN,
    JOB,
    LAST,
    LOST,
    OUT,
    RESUME,
    STARTED,
    TAKEN,
)

ECHO = "import os, sys; os.write(1, sys.stdin.buffer.read()); os._exit(7)"


class Speaker:
    """A loader at work."""

    def __init__(self, place: Path) -> None:
        # Its directories are made for root in a machine of its own.
        program = Path(exec_loader.__file__).read_text().replace(exec_loader.PLACE, str(place))
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def send(self, number: int, kind: int, payload: bytes = b"") -> None:
        """One frame."""
        assert self.process.stdin
        self.process.stdin.write(HEAD.pack(kind, number, len(payload)) + payload)
        self.process.stdin.flush()

    def job(self, code: str, *, resumes: bool) -> None:
        """The first frame."""
        job = {"argv": [sys.executable, "-I", "-S", "-c", code], "env": {}, "cwd": "/", "stdin": True}
        self.send(1, JOB, json.dumps({**job, "resumes": resumes}).encode())

    def frames(self) -> Iterator[tuple[int, int, bytes]]:
        """Number, kind and content of each frame, without signs of life after the first."""
        assert self.process.stdout
        for line in self.process.stdout:
            frame = binascii.a2b_base64(line)
            if frame:
                kind, number, length = HEAD.unpack_from(frame)
                assert len(frame) == HEAD.size + length
                yield number, kind, frame[HEAD.size :]

    def until(self, kind: int) -> list[tuple[int, int, bytes]]:
        """Frames up to one of that kind."""
        found = []
        for frame in self.frames():
            found.append(frame)
            if frame[1] == kind:
                return found
        raise AssertionError(f"no frame of kind {kind} in {found}")


@pytest.fixture
def speaker(tmp_path: Path) -> Iterator[Speaker]:
    """A loader, ended with the test."""
    one = Speaker(tmp_path)
    with one.process:
        yield one
        one.process.kill()


def kinds(frames: list[tuple[int, int, bytes]]) -> list[Any]:
    """What they are."""
    return [kind for _, kind, _ in frames]


def test_what_may_be_lost_is_sent_again(speaker: Speaker) -> None:
    """Guards output and exit code against a connection that breaks before they arrived."""
    speaker.job("import os; os.write(1, b'said'); os._exit(7)", resumes=True)
    first = speaker.until(LAST)
    assert kinds(first) == [ALIVE, STARTED, OUT, LAST]
    speaker.send(2, RESUME, COUNT.pack(0))
    assert speaker.until(LAST) == first
    speaker.send(3, RESUME, COUNT.pack(2))
    assert speaker.until(LAST) == first[2:]
    speaker.send(4, BYE)
    assert speaker.process.wait(30) == 7


def test_what_has_arrived_is_not_kept(speaker: Speaker) -> None:
    """Guards the sandbox's memory."""
    speaker.job("import os; os.write(1, b'said'); os._exit(7)", resumes=True)
    last = speaker.until(LAST)[-1]
    speaker.send(2, TAKEN, COUNT.pack(4) + COUNT.pack(3))
    speaker.send(3, RESUME, COUNT.pack(0))
    assert speaker.until(LAST) == [last]


def test_input_that_comes_twice_is_read_once(speaker: Speaker) -> None:
    """Guards the command's input against a launcher that can't know whether it arrived."""
    speaker.job(ECHO, resumes=True)
    for number, kind, payload in (
        (2, IN, b"a"),
        (2, IN, b"a"),
        (3, IN, b"b"),
        (2, IN, b"a"),
        (4, END_IN, b""),
    ):
        speaker.send(number, kind, payload)
    frames = speaker.until(LAST)
    assert b"".join(payload for _, kind, payload in frames if kind == OUT) == b"ab"
    assert kinds(frames).count(GIVEN) == 2


def test_a_gap_in_the_input_is_told(speaker: Speaker) -> None:
    """Guards a step against input with a hole."""
    speaker.job(ECHO, resumes=True)
    speaker.send(3, IN, b"b")
    assert kinds(speaker.until(LAST))[-2:] == [LOST, LAST]


def test_without_resuming_it_ends_with_its_command(speaker: Speaker) -> None:
    """Guards those that know of an end by the loader's own."""
    speaker.job("import os; os._exit(7)", resumes=False)
    assert kinds(speaker.until(LAST))[-1] == LAST
    assert speaker.process.wait(30) == 7
