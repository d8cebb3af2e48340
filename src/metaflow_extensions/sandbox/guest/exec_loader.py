"""Runs each command of BoxLite and E2B, inside: ``python3 -c`` of this text, for Python 3.8 or newer.

It starts the command with the environment, directory and streams that it is told, passes its streams on, and
when the command ends kills all that it left. Frames come over stdin as bytes: HEAD and what it announces.
They go out over stdout as lines of base64, for SDKs that hand out text. They are numbered: one that is lost
with a connection is noticed. At most WINDOW bytes of a direction are under way.

Where connections break while the loader lives, a job ``resumes``: what the launcher may not have is kept and
sent again, and what comes in twice is dropped. After its last frame the loader waits to be dismissed: a
connection that closes while something is still on its way in takes back what went out last.
"""
# ruff: noqa: PERF203, SIM105 -- contextlib would have to be imported

from __future__ import annotations

# Every command waits for these: contextlib, json, signal and typing would take twice as long as all else.
import _signal
import binascii
import ctypes
import os
import select
import struct
import time

# What type checkers read as typing's own.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional, Tuple

HEAD = struct.Struct("!BII")  # kind, number, bytes that follow
COUNT = struct.Struct("!I")
# To the loader. TAKEN holds a COUNT of bytes; another one there, in STAY and in RESUME is the last number
# that was received.
JOB, IN, END_IN, KILL, TAKEN, STAY, RESUME, BYE = range(1, 9)
STARTED, FAILED, OUT, ERR, GIVEN, ALIVE, LOST, LAST = range(1, 9)  # from it; LAST holds the exit code
WINDOW = 4 << 20  # bytes
CHUNK = 48 * 1024  # bytes: 64 KiB of base64
BEAT = 5.0  # seconds between signs of life
FAREWELL = 10.0  # seconds for a launcher that can't connect again to say that it has all
ORPHANED = 300.0  # seconds without one from the launcher
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PLACE = "/run/metaflow-sandbox-box"
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


class Loader:
    """One command."""

    def __init__(self) -> None:
        self.sent = self.received = 0
        self.buffer = bytearray()
        self.pid = 0
        self.code = -1
        self.credit = WINDOW
        self.killed = False
        self.dismissed = False
        self.resumes = False
        self.keeps = True  # frames, until it is known that the job does not resume
        self.kept: List[Tuple[int, bytes]] = []
        self.input = -1  # the writing end of the command's stdin
        self.pending = bytearray()
        self.end_input = False
        self.outputs: Dict[int, int] = {}
        self.heard = self.told = time.monotonic()
        # Children of what ends become this process's, so that none gets out of sight.
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self.waker, wakened = os.pipe()
        os.set_blocking(self.waker, False)
        os.set_blocking(wakened, False)
        _signal.set_wakeup_fd(wakened, warn_on_full_buffer=False)
        _signal.signal(_signal.SIGCHLD, lambda _number, _frame: None)

    def tell(self, kind: int, payload: bytes = b"") -> None:
        """One frame to the launcher, whole."""
        self.sent += 1
        self.told = time.monotonic()
        line = binascii.b2a_base64(HEAD.pack(kind, self.sent, len(payload)) + payload)
        if self.keeps:
            self.kept.append((self.sent, line))
        write(line)

    def run(self) -> int:
        """Carry on until the command has ended; its exit code, 128 + n when a signal ended it."""
        self.tell(ALIVE)
        while self.code < 0 or (self.outputs and not self.killed):
            self.pass_on()
            if self.is_orphaned():
                self.kill()
        self.outputs = {}
        self.tell(LAST, COUNT.pack(self.code))
        waits_until = None if self.resumes else time.monotonic() + FAREWELL
        while not self.dismissed and not self.is_orphaned():
            if waits_until and time.monotonic() > waits_until:
                break
            self.pass_on()
        return self.code

    def pass_on(self) -> None:
        """Wait for something to do, and do it."""
        poll = select.poll()
        poll.register(0, select.POLLIN)
        poll.register(self.waker, select.POLLIN)
        if self.input >= 0 and self.pending:
            poll.register(self.input, select.POLLOUT)
        for descriptor in self.outputs if self.credit > 0 else ():
            poll.register(descriptor, select.POLLIN)
        for descriptor, _ in poll.poll(BEAT * 1000):
            self.handle(descriptor)
        self.bury()
        if time.monotonic() - self.told >= BEAT:
            self.tell(ALIVE)

    def is_orphaned(self) -> bool:
        """Whether nobody is there any more."""
        return time.monotonic() - self.heard >= ORPHANED

    def handle(self, descriptor: int) -> None:
        """Do what the descriptor is ready for."""
        if descriptor == 0:
            self.listen()
        elif descriptor == self.waker:
            os.read(self.waker, 4096)
        elif descriptor == self.input:
            self.feed()
        elif descriptor in self.outputs and self.credit > 0:
            data = os.read(descriptor, min(CHUNK, self.credit))
            if data:
                self.credit -= len(data)
                self.tell(self.outputs[descriptor], data)
            else:
                del self.outputs[descriptor]

    def listen(self) -> None:
        """Take in what the launcher sent."""
        data = os.read(0, 1 << 16)
        self.heard = time.monotonic()
        if not data:
            self.kill()  # nobody is there any more
            self.dismissed = True
        self.buffer += data
        while len(self.buffer) >= HEAD.size:
            kind, number, length = HEAD.unpack_from(self.buffer)
            if len(self.buffer) < HEAD.size + length:
                return
            payload = bytes(self.buffer[HEAD.size : HEAD.size + length])
            del self.buffer[: HEAD.size + length]
            if self.resumes and number <= self.received:
                continue
            self.received += 1
            if number != self.received:
                self.tell(LOST)
                self.kill()
                return
            self.obey(kind, payload)

    def obey(self, kind: int, payload: bytes) -> None:
        """Do what one frame says."""
        if kind == JOB:
            job = parse(payload)
            self.keeps = self.resumes = job["resumes"]
            self.start(job)
        elif kind == IN:
            self.pending += payload
            self.feed()
        elif kind == END_IN:
            self.end_input = True
            self.feed()
        elif kind == TAKEN:
            self.credit += COUNT.unpack_from(payload)[0]
            self.forget(payload[COUNT.size :])
        elif kind == STAY:
            self.forget(payload)
        elif kind == RESUME:
            self.forget(payload)
            # What follows may follow a part of a line.
            write(b"\n" + b"".join(line for _, line in self.kept))
        elif kind == KILL:
            self.kill()
        elif kind == BYE:
            self.dismissed = True

    def forget(self, payload: bytes) -> None:
        """Keep no longer what has arrived: the payload is the last number, if there is one."""
        if payload:
            (number,) = COUNT.unpack(payload)
            self.kept = [frame for frame in self.kept if frame[0] > number]

    def feed(self) -> None:
        """Pass on what came for the command's stdin, as much as it takes."""
        taken = len(self.pending)
        try:
            if self.input >= 0 and self.pending:
                taken = os.write(self.input, self.pending)
        except BlockingIOError:
            return
        except OSError:  # it reads no more
            self.close_input()
        if taken:
            del self.pending[:taken]
            self.tell(GIVEN, COUNT.pack(taken))
        if self.end_input and not self.pending:
            self.close_input()

    def close_input(self) -> None:
        """Let the command read the end of its input."""
        if self.input >= 0:
            os.close(self.input)
            self.input = -1

    def start(self, job: Dict[str, Any]) -> None:
        """Start the command, and tell how that went."""
        self.pid, (self.input, out, err), reason = spawn(job, PLACE)
        if reason:
            self.tell(FAILED, reason)
            return
        if not job["stdin"]:
            self.close_input()
        self.outputs = {out: OUT, err: ERR}
        self.tell(STARTED)

    def bury(self) -> None:
        """Wait for whatever has ended; the command's own end is its descendants'."""
        code = buried(self.pid)
        if code is not None:
            self.code = code
            self.close_input()
            end_all()

    def kill(self) -> None:
        """End everything; what has not been passed on is dropped."""
        self.killed = True
        end_all()
        if not self.pid:
            self.code = 128 + _signal.SIGKILL


def parse(payload: bytes) -> Dict[str, Any]:
    """What to run, where, with what; ``inner_command`` packs it."""
    flags, cwd, count, *words = payload.decode("utf-8", "surrogateescape").split("\0")
    pairs = iter(words[int(count) :])
    job = {"argv": words[: int(count)], "env": dict(zip(pairs, pairs)), "cwd": cwd or None}  # noqa: B905
    return {**job, "stdin": "S" in flags, "resumes": "R" in flags}


def write(lines: bytes) -> None:
    """Write them to stdout, all."""
    view = memoryview(lines)
    while view:
        view = view[os.write(1, view) :]


def spawn(job: Dict[str, Any], place: str) -> Tuple[int, Tuple[int, int, int], bytes]:
    """Start a command: its pid, our ends of its streams, and why it did not start, or nothing."""
    streams = [os.pipe() for _ in range(3)]
    report, reported = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            become(job, streams, place)
        except BaseException as error:  # noqa: BLE001 -- whatever it is, it is told
            os.write(reported, str(error).encode("utf-8", "surrogateescape"))
        os._exit(127)
    (reader, given), (out, writer), (err, error_writer) = streams
    for descriptor in (reported, reader, writer, error_writer):
        os.close(descriptor)
    with open(report, "rb") as told:
        reason = told.read()
    os.set_blocking(given, False)
    return pid, (given, out, err), reason


def become(job: Dict[str, Any], streams: List[Tuple[int, int]], place: str) -> None:
    """In the child: be the command."""
    os.setsid()
    (reader, _), (_, out), (_, err) = streams
    os.dup2(reader if job["stdin"] else os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out, 1)
    os.dup2(err, 2)
    _signal.set_wakeup_fd(-1)
    for number in (_signal.SIGCHLD, _signal.SIGPIPE, _signal.SIGXFSZ):
        _signal.signal(number, _signal.SIG_DFL)
    places = {name: os.path.join(place, name) for name in ("work", "home")}
    for directory in places.values():
        os.makedirs(directory, exist_ok=True)
    environment = {"PATH": os.environ.get("PATH") or PATH, "HOME": places["home"]}
    environment.update({"TMPDIR": "/tmp", "LANG": "C.UTF-8", **job["env"]})
    words = [encoded(word) for word in job["argv"]]
    os.chdir(encoded(job["cwd"] or places["work"]))
    os.execvpe(words[0], words, {encoded(name): encoded(value) for name, value in environment.items()})


def encoded(text: str) -> bytes:
    """As the kernel takes it."""
    return text.encode("utf-8", "surrogateescape")


def buried(command: int) -> Optional[int]:
    """Wait for whatever has ended; the command's exit code if it is among that, 128 + n for signal n."""
    code = None
    try:
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            if pid == command:
                signalled = os.WIFSIGNALED(status)
                code = 128 + os.WTERMSIG(status) if signalled else os.WEXITSTATUS(status)
    except ChildProcessError:
        pass  # there is none left
    return code


def end_all() -> None:
    """Kill all that descends from this process, again and again until nothing does."""
    while True:
        living = descendants()
        if not living:
            return
        for pid in living:
            try:
                os.kill(pid, _signal.SIGKILL)
            except ProcessLookupError:
                pass  # it has ended
        time.sleep(0.001)


def descendants() -> List[int]:
    """Every process below this one that still lives."""
    children: Dict[int, List[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open("/proc/%s/stat" % name, "rb") as file:
                    # The command's name in parentheses may hold anything.
                    state, parent = file.read().rpartition(b")")[2].split()[:2]
            except OSError:
                continue  # it has ended
            if state != b"Z":
                children.setdefault(int(parent), []).append(int(name))
    found: List[int] = []
    waiting = [os.getpid()]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


if __name__ == "__main__":
    os._exit(Loader().run())
