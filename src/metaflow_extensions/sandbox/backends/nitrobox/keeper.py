"""A process that makes nitrobox sandboxes, each on a thread of its own, as nitrobox ends one with its thread.

nitrobox forks without executing anything: whatever its caller has open stays open as long as the sandbox
runs, in a launcher the output of every other task. Here nothing is open but the requests and the answers,
a line of JSON each. The sandboxes end with this process, and this process with its standard input.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nitrobox import Sandbox, SandboxConfig
from nitrobox.image import store

from ..local_processes import children

NO_CONFIGURATION: dict[str, Any] = {
    "cmd": None,
    "entrypoint": None,
    "env": {},
    "working_dir": "/",
    "exposed_ports": [],
    "diff_ids": [],
}
TURN = 1.0  # seconds; what takes longer is a pull, and nobody waits for another's
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h: a sandbox's first process, once orphaned, is buried here
_telling = threading.Lock()
_making = threading.Lock()


def main() -> None:
    """Make what is asked for until nobody asks any more."""
    answers = os.dup(1)
    os.dup2(2, 1)  # nitrobox's own words are no answers
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for line in sys.stdin:
        threading.Thread(target=keep, args=(json.loads(line), answers), daemon=True).start()
    os._exit(0)


def keep(request: dict[str, Any], answers: int) -> None:
    """Make a sandbox, run its command in it, delete it."""
    name, failure = request["name"], None
    try:
        config = SandboxConfig(**request["config"])
        if config.image.startswith("/"):
            # Or nitrobox asks a build service that is not there, for half a minute.
            store._image_store_populate(config.image, dict(NO_CONFIGURATION))
        with a_turn():
            box = Sandbox(config, name=name)
        own = int(Path(config.env_base_dir, name, ".pid").read_text())
        first = children(own)
        try:
            tell(answers, {"name": name, "made": own})
            # Not nitrobox's descriptor 6, through which a command could say how it ended.
            box.run(f"{request['command']} 6>&-")
        finally:
            box.delete()
            for pid in (own, *first):
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, 0)
    except Exception as error:  # noqa: BLE001 -- nitrobox's own errors have no common class
        failure = str(error) or type(error).__name__
    tell(answers, {"name": name, "ended": failure})


@contextlib.contextmanager
def a_turn() -> Iterator[None]:
    """One sandbox is made at a time: a fork in the middle of another thread's leaves a child that hangs."""
    mine = _making.acquire(timeout=TURN)
    try:
        yield
    finally:
        if mine:
            _making.release()


def tell(answers: int, answer: dict[str, Any]) -> None:
    """Write one answer."""
    with _telling:
        os.write(answers, json.dumps(answer).encode() + b"\n")
