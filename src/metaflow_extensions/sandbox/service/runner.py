"""Run a command with the service in its environment, and keep the service there meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import ServiceError
from . import control
from . import state as states
from .state import HOST, State

LOOK_EVERY = 5.0  # seconds; also what keeps it from stopping for want of requests
NOT_FOUND, NOT_EXECUTABLE = 127, 126  # as shells have it


def run(command: Sequence[str], state: State, idle_timeout: float) -> int:
    """The command's exit code; 128 + N when signal N ended it. Raises ServiceError."""
    over = threading.Event()
    keeper = threading.Thread(target=keep, args=(state, idle_timeout, over), daemon=True)
    try:
        child = subprocess.Popen(command, env=environment(os.environ, state))
    except FileNotFoundError:
        say(f"{command[0]}: no such command")
        return NOT_FOUND
    except OSError as error:
        say(f"{command[0]}: {error.strerror}")
        return NOT_EXECUTABLE
    keeper.start()
    # The terminal's Ctrl-C reaches the command as well; it decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _: child.send_signal(number))
    code = child.wait()
    over.set()
    return code if code >= 0 else 128 - code


def environment(given: Mapping[str, str], state: State) -> dict[str, str]:
    """What makes Metaflow use the service."""
    # Metaflow's HTTP library would ask a proxy, if one is set, for this machine, too.
    direct = ",".join(filter(None, [given.get("no_proxy") or given.get("NO_PROXY"), HOST]))
    return {
        **given,
        "METAFLOW_SERVICE_URL": state.url,
        "METAFLOW_DEFAULT_METADATA": "service",
        "METAFLOW_SANDBOX_HEARTBEAT": given.get("METAFLOW_SANDBOX_HEARTBEAT", "light"),
        "no_proxy": direct,
        "NO_PROXY": direct,
    }


def keep(state: State, idle_timeout: float, over: threading.Event) -> None:
    """Start the service again, at the same place, whenever it is gone."""
    root = Path(state.root)
    while not over.wait(LOOK_EVERY):
        try:
            if states.ping(state.port) == state.instance:
                continue
            # Another command of this root may have started it again already.
            now, anew = control.ensure(root, state.port, idle_timeout)
        except (ServiceError, TimeoutError) as error:
            say(f"{error}" or "The metadata service does not answer")
            continue
        if anew:
            say(f"metadata service was gone, running again at {now.url} (pid={now.pid})")
        state = State(now.pid, state.port, state.root, now.instance) if now.port == state.port else state


def say(text: str) -> None:
    """A line for the user, apart from the command's own output."""
    sys.stderr.write(f"metaflow-sandbox: {text}\n")
