"""The first program in a nitrobox sandbox: becomes nobody, runs the command, says how it ended.

nitrobox merges a command's streams, gives it no input and lets it forge its exit code: what the command
gets comes as descriptors over a socket instead, and its wait status goes back there. Python >= 3.8.
Every command waits for its imports: few, and small ones.
"""

from __future__ import annotations

import _socket  # socket itself takes ten times as long
import os
import struct
import sys

SIZE = struct.Struct("!I")
STATUS = struct.Struct("!I")  # as os.wait gives it
STREAMS = struct.Struct("3i")
DEVICES = ("null", "zero", "full", "random", "urandom")
NOT_FOUND, NOT_EXECUTABLE = 127, 126


def pack(user: int, cwd: str, argv: list[str], env: dict[str, str]) -> bytes:
    """What a command is, as ``main`` reads it; no word may hold a NUL."""
    pairs = [word for pair in env.items() for word in pair]
    return b"\0".join(map(os.fsencode, [str(user), cwd, str(len(argv)), *argv, *pairs]))


def main(path: str) -> None:
    """Run the command that comes over the socket at ``path``, and report its wait status there."""
    channel = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    channel.connect(path)
    data, control, _, _ = channel.recvmsg(1 << 16, _socket.CMSG_SPACE(STREAMS.size))
    streams = STREAMS.unpack(control[0][2])
    while len(data) < SIZE.size or len(data) < SIZE.size + SIZE.unpack(data[: SIZE.size])[0]:
        more = channel.recv(1 << 16)
        if not more:
            sys.exit("the launcher is gone")
        data += more
    for name in DEVICES:
        os.chmod("/dev/" + name, 0o666)  # nitrobox makes them root's alone
    pid = os.fork()
    if pid == 0:
        run(data[SIZE.size :].split(b"\0"), streams)
    for descriptor in streams:
        os.close(descriptor)
    channel.sendall(STATUS.pack(os.waitpid(pid, 0)[1]))


def run(words: list[bytes], streams: tuple[int, ...]) -> None:
    """Become the command; never returns."""
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
    os.closerange(3, 256)
    user, cwd, count, *rest = words
    argv, pairs = rest[: int(count)], rest[int(count) :]
    try:
        os.setsid()
        os.setgroups([])
        os.setgid(int(user))
        os.setuid(int(user))
        os.umask(0o022)
        os.chdir(cwd)
        env = dict(zip(pairs[::2], pairs[1::2]))  # noqa: B905 -- Python 3.8 knows no strict=
        os.execvpe(argv[0], argv, env)
    except (OSError, ValueError) as error:
        os.write(2, f"cannot start {os.fsdecode(argv[0])!r}: {error}\n".encode(errors="replace"))
        os._exit(NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE)


if __name__ == "__main__":
    main(sys.argv[1])
