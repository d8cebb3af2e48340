"""The stdio transport, both ends for real: the guest's multiplexer is a process, what it runs is another."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from metaflow_extensions.sandbox import guest
from metaflow_extensions.sandbox.errors import RelayError, SandboxLost
from metaflow_extensions.sandbox.guest.stdio import (
    ACK,
    CHUNK,
    CLOSE,
    COUNT,
    DATA,
    ERR,
    HEAD,
    OPEN,
    OUT,
    WINDOW,
)
from metaflow_extensions.sandbox.relay.stdio import Channel, StdioRelay

from .parts import WAIT, settle, short_directory

# Runs a script where the guest would run a step, on a multiplexer of its own.
PROGRAM = """
import os, sys
sys.path.insert(0, sys.argv[1])
from guest import run, stdio
run.main = lambda words: exec(words[0], {"address": sys.argv[2]}) or 0
os._exit(stdio.main([sys.argv[3]], sys.argv[2]))
"""
CONNECT = """
import os, socket, sys, threading
def connect():
    relay = socket.socket(socket.AF_UNIX)
    relay.connect(address)
    return relay
"""


class Guest:
    """A guest's process, and the launcher's end of it with a relay that answers what it gets."""

    def __init__(self, place: Path, script: str) -> None:
        self.process = subprocess.Popen(
            [
                sys.executable,
                *["-I", "-S", "-c", PROGRAM],
                str(Path(guest.__file__).parent.parent),
                str(place / "relay"),
                CONNECT + script,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
        )
        self.accepted: list[Channel] = []
        self.threads: list[threading.Thread] = []
        self.relay = StdioRelay(self.accept, self.send)

    def send(self, data: bytes) -> None:
        """Write to the guest."""
        assert self.process.stdin
        view = memoryview(data)
        try:
            while view:
                view = view[self.process.stdin.write(view) :]
        except BrokenPipeError as error:
            raise SandboxLost("gone") from error

    def accept(self, channel: Channel) -> None:
        """Send back whatever comes."""
        self.accepted.append(channel)
        self.threads.append(threading.Thread(target=self.echo, args=(channel,), daemon=True))
        self.threads[-1].start()

    @staticmethod
    def echo(channel: Channel) -> None:
        """Until the end."""
        with channel.makefile("rb", 1 << 16) as reader, channel.makefile("wb", 1 << 16) as writer:
            while data := reader.read1(1 << 16):  # type: ignore[attr-defined]
                writer.write(data)
                writer.flush()
        channel.close()

    def finish(self) -> tuple[int, bytes, bytes]:
        """(exit code, stdout, stderr) of the script."""
        written = {OUT: b"", ERR: b""}
        assert self.process.stdout
        assert self.process.stderr
        while data := self.process.stdout.read(1 << 16):
            for kind, part in self.relay.feed(data):
                written[kind] += part
        self.relay.close()
        for thread in self.threads:
            thread.join(WAIT)
        said = self.process.stderr.read()
        assert said == b"", said.decode()
        return self.process.wait(WAIT), written[OUT], written[ERR]

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert pipe
            pipe.close()


Start = Callable[[str], Guest]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start guests that are ended with the test."""
    with contextlib.ExitStack() as guests:
        place = guests.enter_context(short_directory())

        def starting(script: str) -> Guest:
            guest = Guest(place, script)
            guests.callback(guest.close)
            return guest

        yield starting


def test_output_and_exit_code_are_the_steps(start: Start) -> None:
    """Guards the two streams, which share one pipe, and the code, which is another process's."""
    script = 'os.write(1, b"out\\0\\xff"); os.write(2, b"err"); os._exit(7)'
    assert start(script).finish() == (7, b"out\0\xff", b"err")


def test_death_by_signal(start: Start) -> None:
    """Guards the difference between a signal and an exit."""
    assert start("os.kill(os.getpid(), 9)").finish()[0] == 128 + 9


def test_bytes_come_back_on_their_own_channel(start: Start) -> None:
    """Guards channels at once, each far beyond its window, beside a lot of output."""
    script = """
def talk(number):
    relay, sent = connect(), bytes([number]) * 3_000_000
    threading.Thread(target=lambda: relay.sendall(sent)).start()
    got = bytearray()
    while len(got) < len(sent):
        part = relay.recv(1 << 16)
        if not part: break
        got += part
    results.append(got == sent)
    relay.close()
results = []
threads = [threading.Thread(target=talk, args=(number,)) for number in range(6)]
[thread.start() for thread in threads]
os.write(1, b"x" * 1_000_000)
[thread.join() for thread in threads]
os.write(2, repr(results).encode())
"""
    code, out, err = start(script).finish()
    assert (code, len(out), err) == (0, 1_000_000, repr([True] * 6).encode())


def test_last_words_are_heard(start: Start) -> None:
    """Guards what is written, to a channel and to stdout, right before the end."""
    said = start('r = connect(); r.sendall(b"bye"); os.write(1, b"end"); os._exit(3)')
    heard: list[bytes] = []
    said.echo = lambda channel: heard.append(channel.take(100))  # type: ignore[method-assign]
    assert said.finish()[:2] == (3, b"end")
    assert heard == [b"bye"]


def test_closed_channel_is_seen_inside(start: Start) -> None:
    """Guards against a client that waits for an answer of a relay that has closed its connection."""
    refused = start("os.write(1, repr(connect().recv(1)).encode())")
    refused.relay = StdioRelay(lambda channel: channel.close(), refused.send)
    assert refused.finish() == (0, b"b''", b"")


def test_step_ends_with_the_launcher(start: Start) -> None:
    """Guards against a step that goes on when nobody is there to take its results."""
    orphan = start("import time; time.sleep(600)")
    assert orphan.process.stdin
    orphan.process.stdin.close()
    assert orphan.finish()[0] == 128 + 9


@pytest.mark.parametrize(
    ("sent", "problem"),
    [
        (b"Traceback (most recent call last)", "no frame"),
        (HEAD.pack(OPEN, 1, 0) + HEAD.pack(OPEN, 1, 0), "opened twice"),
        (HEAD.pack(DATA, 1, 1 << 20), "no frame"),
        (
            HEAD.pack(OPEN, 1, 0) + (HEAD.pack(DATA, 1, CHUNK) + bytes(CHUNK)) * (WINDOW // CHUNK + 1),
            f"more than {WINDOW}",
        ),
        (HEAD.pack(OPEN, 1, 0) + HEAD.pack(ACK, 1, 1) + b"x", "without a number"),
    ],
)
def test_bytes_of_another_make_are_refused(sent: bytes, problem: str) -> None:
    """Guards the launcher against a sandbox that sends what no guest of ours sends."""
    relay = StdioRelay(lambda _: None, lambda _: None)
    with pytest.raises(RelayError, match=problem):
        list(relay.feed(sent))


def test_acknowledging_what_was_not_sent_gains_nothing() -> None:
    """Guards the launcher's memory and the guest's own: a window never grows."""
    sent: list[bytes] = []
    channels: list[Channel] = []
    relay = StdioRelay(channels.append, sent.append)
    frames = HEAD.pack(OPEN, 1, 0) + (HEAD.pack(ACK, 1, 4) + COUNT.pack(0xFFFFFFFF)) * 3
    assert list(relay.feed(frames)) == []
    given = sum(channels[0].give(memoryview(bytes(WINDOW))) for _ in range(WINDOW // CHUNK))
    assert given == WINDOW
    refused: list[BaseException] = []

    def give_more() -> None:
        try:
            channels[0].give(memoryview(b"x"))
        except BrokenPipeError as error:
            refused.append(error)

    blocked = threading.Thread(target=give_more)
    blocked.start()
    blocked.join(0.2)
    assert blocked.is_alive()
    channels[0].shutdown(0)
    blocked.join(WAIT)
    assert len(refused) == 1


def opened(first: bytes) -> tuple[Channel, StdioRelay, list[bytes]]:
    """A channel that the guest has opened and written to, and the frames that go to the guest."""
    sent: list[bytes] = []
    channels: list[Channel] = []
    relay = StdioRelay(channels.append, sent.append)
    assert list(relay.feed(HEAD.pack(OPEN, 1, 0) + (data_frame(first) if first else b""))) == []
    return channels[0], relay, sent


def data_frame(content: bytes) -> bytes:
    """A frame of the channel."""
    return HEAD.pack(DATA, 1, len(content)) + content


def test_answers_to_one_frame_are_one_frame() -> None:
    """Guards against small frames one after the other: each but the first may take 40 ms (Nagle)."""
    channel, relay, sent = opened(b"onetwo")

    def serve() -> None:
        with channel.makefile("rb", 1 << 16) as reader, channel.makefile("wb", 1 << 16) as writer:
            while request := reader.read(3):
                writer.write(request.upper())
                writer.flush()

    serving = threading.Thread(target=serve, daemon=True)
    serving.start()
    settle(lambda: sent)
    assert sent == [data_frame(b"ONETWO")]
    relay.close()
    serving.join(WAIT)
    assert len(sent) == 1


def test_what_is_written_while_somebody_reads_goes_at_once() -> None:
    """Guards terminals, whose two directions have a thread each."""
    channel, relay, sent = opened(b"")
    reading = threading.Thread(target=channel.take, args=(100,), daemon=True)
    reading.start()
    settle(lambda: channel._awaited)
    channel.give(memoryview(b"now"))
    assert sent == [data_frame(b"now")]
    relay.close()
    reading.join(WAIT)


def test_nothing_is_kept_at_the_end() -> None:
    """Guards a last answer after which nobody reads."""
    channel, _, sent = opened(b"")
    channel.give(memoryview(b"bye"))
    assert sent == []
    channel.close()
    assert sent == [data_frame(b"bye"), HEAD.pack(CLOSE, 1, 0)]
