"""A shell in the sandbox for somebody at the launcher's terminal: ``terminal.py FRAME``.

Started by the guest's first process with the frame that asked for it; speaks over the relay.
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import socket
import struct
import sys
import termios

# What type checkers read as typing's own.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict

ADDRESS_VARIABLE = "METAFLOW_SANDBOX_RELAY"
LENGTHS = struct.Struct("!II")
CHUNK = 64 * 1024  # bytes
SHELLS = ("/bin/bash", "/bin/sh")


def main(asked: Dict[str, Any]) -> None:
    """Connect, say which terminal this is, and pass on what is typed and shown until one side ends."""
    relay = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    relay.connect(os.environ[ADDRESS_VARIABLE].partition(":")[2])
    header = json.dumps({"verb": "terminal", "token": asked["terminal"]}).encode()
    relay.sendall(LENGTHS.pack(len(header), 0) + header)
    try:
        pid, terminal = pty.fork()
    except OSError as error:
        relay.sendall(("no terminal can be opened in this sandbox: %s\r\n" % error).encode())
        return
    if pid == 0:
        shell = next((path for path in SHELLS if os.path.exists(path)), SHELLS[-1])
        relay.close()
        os.execve(shell, [shell], {**os.environ, "TERM": asked["term"]})
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", asked["rows"], asked["columns"], 0, 0))
    try:
        pump(relay, terminal)
    finally:
        os.close(terminal)  # which hangs up the shell
        relay.close()


def pump(relay: socket.socket, terminal: int) -> None:
    """Copy both ways until one side ends."""
    while True:
        ready, _, _ = select.select([relay.fileno(), terminal], [], [])
        if terminal in ready:
            try:
                shown = os.read(terminal, CHUNK)
            except OSError:  # how Linux says that the shell has ended
                return
            if not shown:
                return
            relay.sendall(shown)
        if relay.fileno() in ready:
            typed = relay.recv(CHUNK)
            if not typed:
                return
            while typed:
                typed = typed[os.write(terminal, typed) :]


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
