"""The first program in a nitrobox sandbox: becomes nobody, runs the command, says how it ended.

nitrobox merges a command's streams, gives it no input and lets it forge its exit code: what the command
gets comes as descriptors over a socket instead, and its wait status goes back there. Python >= 3.8.
"""

from __future__ import annotations

import array
import json
import os
import socket
import struct
import sys
from typing import Any, Dict, List

SIZE = struct.Struct("!I")
STATUS = struct.Struct("!I")  # as os.wait gives it
DEVICES = ("null", "zero", "full", "random", "urandom")
NOT_FOUND, NOT_EXECUTABLE = 127, 126


def main(path: str) -> None:
    """Run the command that comes over the socket at ``path``, and report its wait status there."""
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    channel.connect(path)
    descriptors = array.array("i")
    head, control, _, _ = channel.recvmsg(SIZE.size, socket.CMSG_SPACE(3 * descriptors.itemsize))
    descriptors.frombytes(control[0][2])
    data = b""
    while len(data) < SIZE.unpack(head)[0]:
        data += channel.recv(1 << 16)
    job = json.loads(data)
    for name in DEVICES:
        os.chmod("/dev/" + name, 0o666)  # nitrobox makes them root's alone
    pid = os.fork()
    if pid == 0:
        run(job, list(descriptors))
    for descriptor in descriptors:
        os.close(descriptor)
    channel.sendall(STATUS.pack(os.waitpid(pid, 0)[1]))


def run(job: Dict[str, Any], descriptors: List[int]) -> None:
    """Become the command; never returns."""
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
    os.closerange(3, 256)
    try:
        os.setsid()
        os.setgroups([])
        os.setgid(job["user"])
        os.setuid(job["user"])
        os.umask(0o022)
        os.chdir(job["cwd"])
        os.execvpe(job["argv"][0], job["argv"], job["env"])
    except (OSError, ValueError) as error:
        os.write(2, f"cannot start {job['argv'][0]!r}: {error}\n".encode(errors="replace"))
        os._exit(NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE)


if __name__ == "__main__":
    main(sys.argv[1])
