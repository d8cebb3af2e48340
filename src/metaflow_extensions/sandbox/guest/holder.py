"""What starts a command in a sandbox that is reached by small calls only, for Python 3.8 or newer.

    python3 -c START DIRECTORY NAME    starts the job of that name, and says how that went

PROGRAMS are in the directory.

It leaves a holder behind, which passes the command's streams on, kills what the command leaves, and is asked
over a unix socket (``holder_call.py``). All can be asked again when an answer was lost: output is a stream of
frames, asked for from an offset and dropped once a later one is asked for; input comes with its offset, too,
and a lot of it as a file that TAKE names by its offset.
The holder stops reading when WINDOW bytes wait, and takes no more than WINDOW bytes of input ahead.
"""

from __future__ import annotations

import binascii
import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import struct
import sys
import time

from .exec_loader import buried, end_all, spawn

PROGRAMS = ("guest/__init__.py", "guest/exec_loader.py", "guest/holder.py")
START = """import sys
sys.path.insert(0, sys.argv[1])
from guest.holder import main
sys.exit(main(*sys.argv[1:]))"""
ASK = struct.Struct("!BQII")  # what, offset, milliseconds to wait, bytes wanted at most
POLL, SEND, END, KILL, TAKE = range(1, 6)
ANSWER = struct.Struct("!Q")  # offset of the output that follows, or of the input wanted next
FRAME = struct.Struct("!BI")  # kind, bytes that follow
CODE = struct.Struct("!I")
OUT, ERR, EXIT = range(1, 4)
MARK = b"~"  # around what a call answers, which the shell's own words may precede
WINDOW = 8 << 20  # bytes
CHUNK = 64 * 1024  # bytes
GATHER = 0.001  # seconds for more to come along with a little output: another call takes longer
LINGER = 900.0  # seconds after the end without being asked
PATIENCE = 10.0  # seconds for what takes none
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


class Holder:
    """Stays beside one command."""

    def __init__(self, listener: socket.socket, path: str) -> None:
        self.listener = listener
        self.path = path
        self.pid = 0
        self.code = -1
        self.killed = self.over = False
        self.log = bytearray()  # frames that may be asked for again
        self.first = 0  # offset of the first of them
        self.outputs: dict[int, int] = {}
        self.input = -1  # the writing end of the command's stdin
        self.pending = bytearray()
        self.given = 0  # bytes of input taken over
        self.end_input = False
        self.waiting: list[Request] = []
        self.asked = time.monotonic()
        # Children of what ends become this process's, so that none gets out of sight.
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self.waker, wakened = os.pipe()
        os.set_blocking(self.waker, False)
        os.set_blocking(wakened, False)
        signal.set_wakeup_fd(wakened, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)

    def start(self, job: dict[str, object]) -> str:
        """Start the command; why it did not start, or nothing."""
        self.pid, (self.input, out, err), reason = spawn(job, str(job["place"]))
        self.outputs = {out: OUT, err: ERR}
        if not job["stdin"]:
            self.close_input()
        return reason.decode("utf-8", "replace")

    def run(self) -> None:
        """Carry on until nobody asks any more."""
        while not (self.over and time.monotonic() - self.asked > LINGER):
            poll = select.poll()
            for descriptor in (self.listener.fileno(), self.waker):
                poll.register(descriptor, select.POLLIN)
            if self.input >= 0 and self.pending:
                poll.register(self.input, select.POLLOUT)
            for descriptor in self.outputs if len(self.log) < WINDOW else ():
                poll.register(descriptor, select.POLLIN)
            now = time.monotonic()
            until = min([request.until for request in self.waiting] or [now + PATIENCE])
            for descriptor, _ in poll.poll(max(0.0, until - now) * 1000):
                self.handle(descriptor)
            self.bury()
            self.finish()
            self.waiting = [request for request in self.waiting if not self.answer(request)]

    def handle(self, descriptor: int) -> None:
        """Do what the descriptor is ready for."""
        if descriptor == self.listener.fileno():
            with contextlib.suppress(OSError, struct.error):
                self.waiting.append(Request(self.listener.accept()[0]))
                self.asked = time.monotonic()
        elif descriptor == self.waker:
            os.read(self.waker, 4096)
        elif descriptor == self.input:
            self.feed()
        elif descriptor in self.outputs:
            data = os.read(descriptor, CHUNK)
            if data:
                self.log += FRAME.pack(self.outputs[descriptor], len(data)) + data
            else:
                os.close(descriptor)
                del self.outputs[descriptor]

    def answer(self, request: Request) -> bool:
        """Whether the request has been dealt with; otherwise it waits."""
        late = time.monotonic() >= request.until
        if request.what == POLL:
            old = min(max(0, request.offset - self.first), len(self.log))
            del self.log[:old]
            self.first += old
            # Who has no room for more is still to hear of the end, and what is left is small.
            most = request.most or (len(self.log) if self.over else 0)
            if self.log and most:
                if not late and len(self.log) < CHUNK and not self.over:
                    request.hurry(GATHER)
                    return False
                return request.answer(self.first, bytes(self.log[:most]))
            return late and request.answer(self.first)
        if request.what in (SEND, TAKE):
            file = input_file(self.path, request.offset)
            if request.what == TAKE and not request.data:
                # There is none when this is asked again because the answer was lost.
                with contextlib.suppress(FileNotFoundError), open(file, "rb") as content:
                    request.data = content.read()
            self.take(request)
            if not late and self.given < request.offset + len(request.data):
                return False
            if request.what == TAKE:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(file)
            return request.answer(self.given)
        if request.what == END and request.offset == self.given:
            self.end_input = True
            self.feed()
        elif request.what == KILL:
            self.kill()
            self.finish()
        return request.answer(self.given)

    def take(self, request: Request) -> None:
        """Take over as much input as there is room for, without what came before."""
        known = self.given - request.offset
        if self.input < 0:
            self.given = max(self.given, request.offset + len(request.data))  # it reads no more
        elif 0 <= known < len(request.data):
            part = request.data[known : known + max(0, WINDOW - len(self.pending))]
            self.pending += part
            self.given += len(part)
            self.feed()

    def feed(self) -> None:
        """Pass input on, as much as the command takes."""
        try:
            if self.input >= 0 and self.pending:
                del self.pending[: os.write(self.input, self.pending)]
        except BlockingIOError:
            return
        except OSError:  # it reads no more
            self.close_input()
        if self.end_input and not self.pending:
            self.close_input()

    def close_input(self) -> None:
        """Let the command read the end of its input."""
        self.pending.clear()
        if self.input >= 0:
            os.close(self.input)
            self.input = -1

    def bury(self) -> None:
        """Wait for whatever has ended; the command's own end is its descendants'."""
        code = buried(self.pid)
        if code is not None:
            self.code = code
            self.close_input()
            end_all()

    def kill(self) -> None:
        """End everything; what has not been read yet is dropped."""
        if self.code < 0:
            self.killed = True
            end_all()
            self.bury()

    def finish(self) -> None:
        """Tell the end, once, after all output."""
        if not self.over and self.code >= 0 and (self.killed or not self.outputs):
            self.over = True
            self.log += FRAME.pack(EXIT, CODE.size) + CODE.pack(self.code)
            for descriptor in self.outputs:
                os.close(descriptor)
            self.outputs.clear()


class Request:
    """One that was asked over the socket; ``until`` is when it has to be answered."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(PATIENCE)
        self.connection = connection
        text = read_all(connection)
        self.what, self.offset, wait, self.most = ASK.unpack_from(text)
        self.data = text[ASK.size :]
        self.until = time.monotonic() + wait / 1000
        self.hurried = False

    def hurry(self, seconds: float) -> None:
        """It has to be answered that soon from when this is first said."""
        if not self.hurried:
            self.hurried = True
            self.until = min(self.until, time.monotonic() + seconds)

    def answer(self, offset: int, data: bytes = b"") -> bool:
        """Answer, and be done."""
        with contextlib.suppress(OSError), self.connection:  # who asked may be gone
            self.connection.sendall(ANSWER.pack(offset) + data)
        return True


def main(directory: str, name: str) -> int:
    """Start a job, unless another call did; its report is the same."""
    os.chmod(directory, 0o700)
    path = os.path.join(directory, name)
    with contextlib.suppress(FileNotFoundError):
        os.rename(path + ".job", path + ".taken")
        if os.fork() == 0:
            hold(path)
            os._exit(0)
    deadline = time.monotonic() + PATIENCE
    while not os.path.exists(path + ".report"):
        if time.monotonic() > deadline:
            sys.stderr.write("the command was not started")
            return 1
        time.sleep(0.002)
    with open(path + ".report", "rb") as report:
        sys.stdout.buffer.write(MARK + binascii.b2a_base64(report.read(), newline=False) + MARK)
    return 0


def hold(path: str) -> None:
    """In the background: be the holder of a command."""
    os.setsid()
    if os.fork():
        os._exit(0)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nothing, stream)
    os.closerange(3, 1024)
    with open(path + ".taken", "rb") as file:
        job = json.loads(file.read())
    os.unlink(path + ".taken")  # what it holds may be secret
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path + ".socket")
    listener.listen(64)
    holder = Holder(listener, path)
    reason = holder.start(job)
    with open(path + ".draft", "wb") as report:
        report.write(reason.encode("utf-8", "replace"))
    os.rename(path + ".draft", path + ".report")
    if not reason:
        holder.run()


def input_file(path: str, offset: int) -> str:
    """Where input from that offset on is put for the holder of a job at that path."""
    return "%s.input-%d" % (path, offset)


def read_all(connection: socket.socket) -> bytes:
    """Everything until the other side ends."""
    parts: list[bytes] = []
    while True:
        part = connection.recv(1 << 18)
        if not part:
            return b"".join(parts)
        parts.append(part)
