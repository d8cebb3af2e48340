"""The process that Metaflow's scheduler sees as the task: hands it to the supervisor and waits.

Run as ``python -I -S shim.py SOCKET KEY COMMAND…``. It passes its own stdout and stderr over, forwards
signals, and ends as the step ended.
"""

# The C modules below the public ones: socket and signal would import enum, selectors and more, which
# takes longer than everything else that a shim does.
import _signal
import _socket
import os
import struct
import sys
import time

FORWARDED = (_signal.SIGHUP, _signal.SIGINT, _signal.SIGTERM, _signal.SIGUSR1, _signal.SIGUSR2)
ENDED = struct.Struct("!BB")  # exit code, signal that ended the step or 0
REAPED_WITHIN = 5.0  # seconds for the reaper to remove what a killed supervisor left, its socket last
POLL = 0.005  # seconds
GONE = """\
[sandbox] The supervisor of this run's sandboxes is gone, so this task cannot go on.
[sandbox] It was killed or ran out of memory; Metaflow's @retry or `resume` runs the task again.
"""


def gone(path: str) -> int:
    """Say so, once nothing of the supervisor is left: what runs next must find it gone, too."""
    deadline = time.monotonic() + REAPED_WITHIN
    while os.path.exists(path) and time.monotonic() < deadline:
        time.sleep(POLL)
    os.write(2, GONE.encode())
    return 1


def request(supervisor: _socket.socket, key: str, words: list[str]) -> None:
    """Hand over what is asked for, with this process's stdout and stderr."""
    text = "\0".join([key, *words]).encode("utf-8", "surrogateescape")
    descriptors = struct.pack("=2i", 1, 2)
    message = struct.pack("!I", len(text)) + text
    sent = supervisor.sendmsg([message], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, descriptors)])
    while sent < len(message):
        sent += supervisor.send(message[sent:])


def main(path: str, key: str, command: list[str]) -> int:
    """Return the step's exit code, or do not return at all when a signal ended it."""
    supervisor = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    supervisor.connect(path)
    for number in FORWARDED:
        _signal.signal(number, lambda number, _frame: supervisor.send(bytes([number])))
    request(supervisor, key, command)
    # Only the supervisor's copies stay open: the task's output ends when it says so.
    answer = b""
    while len(answer) < ENDED.size:
        part = supervisor.recv(ENDED.size - len(answer))
        if not part:
            return gone(path)
        answer += part
    code, number = ENDED.unpack(answer)
    if number:
        _signal.signal(number, _signal.SIG_DFL) if number not in (_signal.SIGKILL, _signal.SIGSTOP) else None
        os.kill(os.getpid(), number)
    return int(code)


if __name__ == "__main__":
    try:
        status = main(sys.argv[1], sys.argv[2], sys.argv[3:])
    except (ConnectionError, FileNotFoundError):
        status = gone(sys.argv[1])
    os._exit(status)
