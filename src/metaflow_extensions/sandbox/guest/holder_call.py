"""One request to a command's holder: ``python3 holder_call.py SOCKET``, base64 in, base64 between MARKs out.

It is started for every call, and is as short and imports as little as can be.
"""

from __future__ import annotations

# What socket imports would take longer than the call.
import _socket
import binascii
import os
import sys

MARK = b"~"
UNREACHABLE = 3  # exit code when there is no holder


def main(address: str) -> int:
    """Pass it on."""
    request = binascii.a2b_base64(sys.stdin.buffer.read())
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    answer: list[bytes] = []
    try:
        connection.connect(address)
        connection.sendall(request)
        connection.shutdown(_socket.SHUT_WR)
        while not answer or answer[-1]:
            answer.append(connection.recv(1 << 18))
    except OSError as error:
        sys.stderr.write(str(error))
        return UNREACHABLE
    if len(answer) < 2:
        return UNREACHABLE
    text = MARK + binascii.b2a_base64(b"".join(answer), newline=False) + MARK
    while text:
        text = text[os.write(1, text) :]
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
