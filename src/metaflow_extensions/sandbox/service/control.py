"""Start and stop the service of a ``.metaflow``, from outside its process."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import ServiceError
from . import state as states
from .state import State

START_WITHIN = 60.0  # seconds; a loaded machine may take ten
STOP_WITHIN = 15.0  # seconds
POLL = 0.05  # seconds
DAEMON = "from metaflow_extensions.sandbox.service.daemon import main; main()"


def ensure(root: Path, port: int, idle_timeout: float) -> tuple[State, bool]:
    """The service of a root, started if need be, and whether it was. Raises ServiceError."""
    try:
        with alone(root):
            found = states.running(root)
            return (found, False) if found else (start(root, port, idle_timeout), True)
    except OSError as error:
        raise ServiceError(
            f"The metadata service keeps its state in {states.folder()}, which cannot be written: {error}"
        ) from error


@contextmanager
def alone(root: Path) -> Iterator[None]:
    """Keep other starts for that root waiting."""
    lock = states.file(root, "lock")
    lock.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def start(root: Path, port: int, idle_timeout: float) -> State:
    """Start it, on the port of one that was killed if that is free. Raises ServiceError."""
    if importlib.util.find_spec("metaflow_local_service") is None:
        raise ServiceError(
            "The metadata service needs the package metaflow-local-service: "
            "pip install 'metaflow-sandbox[service]'"
        )
    killed = states.read(root)
    reader, writer = os.pipe()
    log = states.file(root, "log")
    with os.fdopen(reader, "rb") as ready, log.open("wb") as errors:
        try:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-c", DAEMON, "--root", str(root), "--port", str(port)),
                    *("--preferred-port", str(killed.port if killed else 0)),
                    *("--idle-timeout", str(idle_timeout), "--ready", str(writer)),
                ],
                # A module of the user's must not be taken for one of ours.
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                pass_fds=(writer,),
                start_new_session=True,
            )
        finally:
            os.close(writer)
        if select.select([ready], [], [], START_WITHIN)[0]:
            said = ready.read()
        else:
            process.kill()
            said = json.dumps({"error": f"it was not ready within {START_WITHIN:.0f} s"}).encode()
    answer = json.loads(said) if said else {"error": last_lines(log)}
    if "error" in answer:
        raise ServiceError(f"The metadata service cannot start: {answer['error']}")
    state = states.running(root)
    if state is None:
        raise ServiceError(f"The metadata service ended as soon as it had started: {last_lines(log)}")
    return state


def stop(root: Path) -> bool:
    """End the service of a root; whether there was one. Raises ServiceError."""
    state = states.running(root)
    if state is None:
        return False
    for number, patience in ((signal.SIGTERM, STOP_WITHIN), (signal.SIGKILL, STOP_WITHIN)):
        with suppress(ProcessLookupError):
            os.kill(state.pid, number)
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if states.ping(state.port) != state.instance:
                states.forget(state)
                return True
            time.sleep(POLL)
    raise ServiceError(f"The metadata service does not end. End it: kill -9 {state.pid}")


def last_lines(log: Path) -> str:
    """The end of its log."""
    lines = log.read_text(errors="replace").splitlines()[-3:]
    return f"{' / '.join(lines)} ({log})"
