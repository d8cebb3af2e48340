"""The holder of a command and the calls to it, as backends without streams use them; in a plain directory."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from metaflow_extensions.sandbox.guest import holder, holder_call
from metaflow_extensions.sandbox.guest.holder import (
    ANSWER,
    ASK,
    CODE,
    END,
    ERR,
    EXIT,
    FRAME,
    KILL,
    OUT,
    POLL,
    SEND,
    TAKE,
    WINDOW,
    input_file,
)

PYTHON = [sys.executable, "-I", "-S"]
NAME = "command-0"
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it looks into /proc")


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a path short enough for a socket; a command in it is killed at the end."""
    with tempfile.TemporaryDirectory(prefix="hld", dir="/tmp") as name:
        yield Path(name)
        with contextlib.suppress(ConnectionRefusedError, FileNotFoundError):  # none was started
            end(Path(name))


def end(place: Path) -> None:
    """Kill the command, and the holder, which would stay for a while to be asked."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(place / f"{NAME}.socket"))
        peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    ask(place, KILL)
    os.kill(struct.unpack("3i", peer)[0], signal.SIGKILL)


def call(words: list[str], given: bytes = b"") -> tuple[int, bytes]:
    """Exit code, and what is between the marks."""
    done = subprocess.run([*PYTHON, *words], input=base64.b64encode(given), capture_output=True, timeout=30)
    said = done.stdout.split(holder.MARK)
    return done.returncode, base64.b64decode(said[1]) if len(said) == 3 else done.stderr


def start(place: Path, code: str, **changes: Any) -> bytes:
    """Start Python code; why it did not start."""
    job = {
        "argv": [*PYTHON, "-c", code],
        "env": {},
        "cwd": None,
        "stdin": True,
        "place": str(place / "places"),
        **changes,
    }
    for program in holder.PROGRAMS:
        (place / program).parent.mkdir(exist_ok=True)
        shutil.copyfile(Path(holder.__file__).parents[1] / program, place / program)
    (place / f"{NAME}.job").write_text(json.dumps(job))
    return again(place)


def again(place: Path) -> bytes:
    """Start what is to be started, as after a lost answer."""
    code, said = call(["-c", holder.START, str(place), NAME])
    assert code == 0, said
    return said


def ask(
    place: Path, what: int, offset: int = 0, data: bytes = b"", wait: int = 20_000, most: int = 1 << 20
) -> tuple[int, bytes]:
    """The answer to one request."""
    request = ASK.pack(what, offset, wait, most) + data
    code, said = call([str(holder_call.__file__), str(place / f"{NAME}.socket")], request)
    assert code == 0, said
    return ANSWER.unpack_from(said)[0], said[ANSWER.size :]


def frames(data: bytes) -> list[tuple[int, bytes]]:
    """What a stream of frames holds."""
    found, at = [], 0
    while at < len(data):
        kind, length = FRAME.unpack_from(data, at)
        at += FRAME.size + length
        found.append((kind, data[at - length : at]))
    return found


def everything(place: Path) -> list[tuple[int, bytes]]:
    """All frames to the end."""
    data = b""
    while not (data and frames(data)[-1][0] == EXIT):
        at, more = ask(place, POLL, len(data))
        assert at == len(data)
        data += more
    return frames(data)


def test_output_is_told_again_until_more_is_asked_for(place: Path) -> None:
    """Guards against lines lost with an answer, or told twice after it."""
    assert start(place, "import os; os.write(1, b'one'); os.read(0, 1); os.write(2, b'two')") == b""
    first = ask(place, POLL)
    assert first == ask(place, POLL) == (0, FRAME.pack(OUT, 3) + b"one")
    ask(place, SEND, 0, b"x")
    size = len(first[1])
    at, more = ask(place, POLL, size)
    assert (at, frames(more)[0]) == (size, (ERR, b"two"))
    assert ask(place, POLL, 0)[0] == size  # what was had is dropped


def test_an_answer_holds_no_more_than_wanted(place: Path) -> None:
    """Guards the size of answers; a frame may be cut anywhere."""
    assert start(place, "import os; os.write(1, b'abcdef')") == b""
    assert ask(place, POLL, 0, most=4) == (0, (FRAME.pack(OUT, 6) + b"abcdef")[:4])
    assert ask(place, POLL, 4, most=3)[0] == 4


def test_input_sent_again_arrives_once(place: Path) -> None:
    """Guards against bytes doubled by a send whose answer was lost, and one that comes too early."""
    assert start(place, "import sys; sys.stdout.write(sys.stdin.read())") == b""
    assert ask(place, SEND, 0, b"abc")[0] == 3
    assert ask(place, SEND, 0, b"abcde")[0] == 5
    assert ask(place, SEND, 9, b"later", wait=0)[0] == 5
    assert ask(place, END, 9)[0] == 5  # not yet
    assert ask(place, END, 5)[0] == 5
    assert everything(place) == [(OUT, b"abcde"), (EXIT, CODE.pack(0))]


def test_input_in_a_file_is_taken_once(place: Path) -> None:
    """Guards against input that is lost, comes twice or stays on the disk when an answer was lost."""
    start(place, "import os, sys; os.write(1, sys.stdin.buffer.read())", stdin=True)
    file = Path(input_file(str(place / NAME), 3))
    assert ask(place, SEND, 0, b"abc")[0] == 3
    file.write_bytes(b"defg")
    assert ask(place, TAKE, 3)[0] == 7
    assert not file.exists()
    assert ask(place, TAKE, 3)[0] == 7
    file.write_bytes(b"defghi")
    assert ask(place, TAKE, 3)[0] == 9
    ask(place, END, 9)
    assert everything(place)[0] == (OUT, b"abcdefghi")


def test_input_that_nobody_reads_is_taken_up_to_the_window(place: Path) -> None:
    """Guards the sandbox's memory."""
    assert start(place, "import time; time.sleep(600)") == b""
    data = bytes(WINDOW + (1 << 20))
    assert WINDOW <= ask(place, SEND, 0, data, wait=200)[0] < len(data)


def test_a_start_asked_for_twice_happens_once(place: Path) -> None:
    """Guards the promise that nothing runs twice."""
    code = f"open({str(place / 'ran')!r}, 'a').write('x')"
    assert start(place, code) == again(place) == b""
    assert everything(place) == [(EXIT, CODE.pack(0))]
    assert (place / "ran").read_text() == "x"


def test_why_a_command_does_not_start(place: Path) -> None:
    """Guards the reason, also for who asks again."""
    assert b"No such file" in start(place, "", argv=["/no/such/program"])
    assert b"No such file" in again(place)


def test_a_kill_reaches_all_and_the_code_says_so(place: Path) -> None:
    """Guards against children that outlive their command."""
    code = "import os, time; os.fork(); os.write(1, b'x'); time.sleep(600)"
    assert start(place, code, env={"MARK": "1"}) == b""
    ask(place, POLL)
    ask(place, KILL)
    assert everything(place)[-1] == (EXIT, CODE.pack(137))


def test_the_job_is_gone_once_it_runs(place: Path) -> None:
    """Guards the secrets in it."""
    assert start(place, "", env={"SECRET": "s3cret"}) == b""
    kept = [path for path in place.iterdir() if path.is_file()]
    assert [path.name for path in kept] == [f"{NAME}.report"]
    assert place.stat().st_mode & 0o777 == 0o700


def test_a_call_without_a_holder_says_so(place: Path) -> None:
    """Guards against a lost holder that looks like one that has nothing to say."""
    code, said = call([str(holder_call.__file__), str(place / "absent.socket")], ASK.pack(POLL, 0, 0, 0))
    assert (code, b"No such file" in said) == (holder_call.UNREACHABLE, True)
    assert holder_call.MARK == holder.MARK


def test_who_has_no_room_hears_of_the_end(place: Path) -> None:
    """Guards a launcher whose reader is slow: it asks for nothing, and has to learn that all is over."""
    start(place, "import sys; print('abc', flush=True); sys.stdin.read()")
    assert ask(place, POLL, wait=200, most=0) == (0, b"")
    ask(place, END)
    _, data = ask(place, POLL, most=0)
    assert frames(data)[-1] == (EXIT, CODE.pack(0))
