"""Run one command in a sandbox and tell the launcher when it starts and how it ends."""

from __future__ import annotations

# The C modules below the public ones: json, signal, socket and threading would take twice as long to
# import as everything else that this process does. The frames are those of frames.py.
import _signal
import _socket
import os
import select
import struct
import sys

# What type checkers read as typing's own; importing that would double the time to here.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, List, Tuple

ADDRESS_VARIABLE = "METAFLOW_SANDBOX_RELAY"
PATH_VARIABLE = "METAFLOW_SANDBOX_PATH"  # where programs are looked for first
FORWARDED = (_signal.SIGHUP, _signal.SIGINT, _signal.SIGTERM, _signal.SIGUSR1, _signal.SIGUSR2)
LENGTHS = struct.Struct("!II")
COPY_CHUNK = 1 << 20  # bytes
TERMINAL = 0  # no signal has this number
MAXRSS_MIB = 1 << 20 if sys.platform == "darwin" else 1 << 10  # macOS counts bytes, Linux KiB


def main(arguments: List[str]) -> int:
    """Run ``[CODE] -- COMMAND…`` in the working directory; 128 + n when a signal ended it."""
    separator = arguments.index("--")
    code, command = arguments[:separator], arguments[separator + 1 :]
    relay = connect(os.environ[ADDRESS_VARIABLE])
    first = os.environ.pop(PATH_VARIABLE, None)
    if first:
        os.environ["PATH"] = first + os.pathsep + os.environ.get("PATH", os.defpath)
        # @conda looks for one, and would make it with a line in the task's log.
        os.makedirs(".metaflow", exist_ok=True)
    if code:
        copy_code(code[0], os.getcwd())
    waker, wakened = os.pipe()
    os.set_blocking(wakened, False)
    _signal.set_wakeup_fd(wakened)
    _signal.signal(_signal.SIGCHLD, lambda _number, _frame: None)
    report(relay, b'{"verb":"started"}')
    # Not before the launcher knows: what has run is never run again.
    answer = read_header(relay)
    if answer is None:
        return 1
    pid = start(command, relay)
    status, usage, signalled = wait(pid, relay, waker)
    killed_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    # Whoever ended it by a signal has seen enough.
    kept = status != 0 and not signalled and b'"keep"' in answer
    report(
        relay,
        b'{"verb":"ended","signal":%s,"peak_memory":%.3f,"cpu_time":%.3f,"kept":%s}'
        % (
            b"%d" % killed_by if killed_by else b"null",
            usage.ru_maxrss / MAXRSS_MIB,
            usage.ru_utime + usage.ru_stime,
            b"true" if kept else b"false",
        ),
    )
    # What the step left stays as it is, for terminals, until the launcher sends any signal.
    while kept and obey(relay) is TERMINAL:
        pass
    return 128 + killed_by if killed_by else os.WEXITSTATUS(status)


def connect(address: str) -> _socket.socket:
    """A connection to the relay at ``unix:PATH``."""
    scheme, _, path = address.partition(":")
    if scheme != "unix":
        raise SystemExit("%s=%s is not an address that this guest knows" % (ADDRESS_VARIABLE, address))
    relay = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    relay.connect(path)
    return relay


def copy_code(source: str, target: str) -> None:
    """Copy the code package's tree into the working directory, contents only."""
    for folder, _, names in os.walk(source):
        place = os.path.join(target, os.path.relpath(folder, source))
        os.makedirs(place, exist_ok=True)
        for name in names:
            copy_file(os.path.join(folder, name), os.path.join(place, name))


def copy_file(source: str, target: str) -> None:
    """Copy one file's bytes and permissions; shutil would take longer to import than to run."""
    with open(source, "rb") as reader, open(target, "wb") as writer:
        while writer.write(reader.read(COPY_CHUNK)):
            pass
        os.fchmod(writer.fileno(), os.fstat(reader.fileno()).st_mode & 0o777 | 0o600)


def start(command: List[str], relay: _socket.socket) -> int:
    """Start the command and return its process id."""
    pid = os.fork()
    if pid == 0:
        relay.close()
        _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
        try:
            os.execvpe(command[0], command, os.environ)
        except OSError as error:
            os.write(2, ("cannot start %s: %s\n" % (command[0], error)).encode())
        os._exit(127)
    return pid


def wait(pid: int, relay: _socket.socket, waker: int) -> Tuple[int, Any, bool]:
    """(status, usage, whether the launcher's process was sent signals) of the command, which gets those."""
    signalled = False
    poll = select.poll()
    poll.register(waker, select.POLLIN)
    poll.register(relay.fileno(), select.POLLIN)
    while True:
        ended, status, usage = os.wait4(pid, os.WNOHANG)
        if ended:
            return status, usage, signalled
        for descriptor, _ in poll.poll():
            if descriptor == waker:
                os.read(waker, 4096)
                continue
            number = obey(relay)
            if number is None:
                poll.unregister(relay.fileno())
            elif number in FORWARDED:
                os.kill(pid, number)
                signalled = True


def obey(relay: _socket.socket) -> int | None:
    """Do what the next frame asks for: the number in ``{"signal": NUMBER}``; None when the launcher has gone.

    For ``{"terminal": …}`` a terminal is opened, and the answer is TERMINAL.
    """
    header = read_header(relay)
    if header is None:
        return None
    if not header.startswith(b'{"terminal"'):
        return int(header[header.index(b":") + 1 : -1])
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "terminal.py")
    start([sys.executable, "-I", "-S", script, header.decode()], relay)
    return TERMINAL


def read_header(relay: _socket.socket) -> bytes | None:
    """The next frame's header, the launcher's frames having nothing else; None when it has gone."""
    head = relay.recv(LENGTHS.size, _socket.MSG_WAITALL)
    if len(head) != LENGTHS.size:
        return None
    return relay.recv(LENGTHS.unpack(head)[0], _socket.MSG_WAITALL)


def report(relay: _socket.socket, header: bytes) -> None:
    """Tell the launcher; it may be gone, and then so are we in a moment."""
    try:
        relay.send(LENGTHS.pack(len(header), 0) + header)
    except OSError as error:
        sys.stderr.write("the launcher is gone: %s\n" % error)
