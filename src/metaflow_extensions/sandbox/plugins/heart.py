"""Beat until told to stop: a script of its own, ``heart.py PORT``, that imports next to nothing.

Its standard input gives the HTTP request to send, then a byte for the end; it closes when its owner has died.
"""

import _socket
import os
import select
import sys

WAIT = 10.0  # seconds between beats where the service does not say
LEAST = 1.0  # seconds between them whatever it says
TIMEOUT = 10.0  # seconds for an answer
GROWTH = 1.5  # of the wait after each beat in a row that failed, as Metaflow's sidecar
LARGEST = 65536  # bytes of a request, or of an answer


def main(port: int) -> None:
    """Beat at 127.0.0.1:PORT."""
    request = os.read(0, LARGEST)
    failures = 0
    while request:
        try:
            wait = beat(port, request)
            failures = 0
        except OSError:
            failures += 1
            wait = min(GROWTH**failures, WAIT)
        if select.select([0], [], [], wait)[0]:
            if os.read(0, 1):
                beat(port, request)
            return


def beat(port: int, request: bytes) -> float:
    """Send the request; seconds until the next one. Raises OSError."""
    connection = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
    try:
        connection.settimeout(TIMEOUT)
        connection.connect(("127.0.0.1", port))
        connection.sendall(request)
        answer = b""
        while len(answer) < LARGEST:
            piece = connection.recv(LARGEST)
            if not piece:
                break
            answer += piece
    finally:
        connection.close()
    status, _, rest = answer.partition(b"\r\n")
    if b" 200" not in status:
        raise OSError(status[:80])
    # The only number of the body: {"wait_time_in_seconds": 10}, as JSON in a JSON string.
    digits = bytes(byte for byte in rest.partition(b"\r\n\r\n")[2] if 48 <= byte <= 57)
    return max(float(digits), LEAST) if 0 < len(digits) < 4 else WAIT


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]))
    except OSError:
        os._exit(1)
    os._exit(0)
