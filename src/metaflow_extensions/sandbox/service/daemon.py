"""The service's process: take the port, say where it is, serve until nobody asks any more."""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import sys
import threading
import time
import uuid
from pathlib import Path

import uvicorn

from ..errors import ServiceError
from . import state as states
from .app import build
from .refusals import of_disk
from .state import HOST, State

BACKLOG = 2048
KEEP_ALIVE = 3600  # seconds: a connection that we close while Metaflow writes to it costs it a second
SHUTDOWN_WITHIN = 5  # seconds for open connections
LOOK_EVERY = 1.0  # seconds


def main() -> None:
    """Serve; the first line of the descriptor ``--ready`` is {"port": N} or {"error": TEXT}."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--preferred-port", type=int, default=0)
    parser.add_argument("--idle-timeout", type=float, required=True)
    parser.add_argument("--ready", type=int, required=True)
    options = parser.parse_args()
    with os.fdopen(options.ready, "w") as ready:
        try:
            listener = listen(options.port, options.preferred_port)
            state = State(os.getpid(), listener.getsockname()[1], str(options.root), uuid.uuid4().hex)
            gate = build(options.root, state.instance)
            states.write(state)
        except OSError as error:
            ready.write(json.dumps({"error": str(of_disk(error))}))
            sys.exit(1)
        except ServiceError as error:
            ready.write(json.dumps({"error": str(error)}))
            sys.exit(1)
        ready.write(json.dumps({"port": state.port}))
    server = uvicorn.Server(
        uvicorn.Config(
            gate,
            log_level="warning",
            access_log=False,
            lifespan="off",
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=SHUTDOWN_WITHIN,
        )
    )

    def stop_when_idle() -> None:
        while time.monotonic() - gate.last_request < options.idle_timeout:
            time.sleep(LOOK_EVERY)
        server.should_exit = True

    threading.Thread(target=stop_when_idle, daemon=True).start()
    # uvicorn raises the signal once more when it has closed, which would leave our state behind.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    try:
        server.run(sockets=[listener])
    finally:
        states.forget(state)


def listen(port: int, preferred: int) -> socket.socket:
    """A socket on a port of the loopback; 0 is the preferred one, else any. Raises ServiceError."""
    for candidate in (port,) if port else (preferred, 0):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        # The port of one that was killed a moment ago.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, candidate))
            listener.listen(BACKLOG)
        except OSError as error:
            listener.close()
            failure = error
        else:
            return listener
    raise ServiceError(
        f"Port {port} of {HOST} cannot be used: {failure.strerror}. Choose another with --port, or leave it "
        "out for any that is free"
    )


if __name__ == "__main__":
    main()
