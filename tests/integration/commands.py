"""``metaflow-sandbox …`` as a user runs it, and sandboxes of processes that live, die or never answer."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .harness import TIMEOUT, flow_environment

CLI = (sys.executable, "-m", "metaflow_extensions.sandbox.cli")
ROOT = Path(__file__).parents[2]
# Opens sandboxes, says their ids and waits until it is killed or its standard input ends.
OPENER = """
import json, sys
from metaflow_extensions.sandbox.backends import owner, registry
from metaflow_extensions.sandbox.backends.interface import Command, SandboxSpec
asked = json.loads(sys.argv[1])
backend = registry.load(asked["backend"])
opened = []
for number in range(asked["count"]):
    labels = {"flow": "Flow", "run": asked["run"], "step": "train", "task": str(number), "attempt": "0",
              "user": "tester", "backend": asked["backend"], **(owner.labels() if asked["owned"] else {})}
    sandbox = backend.open(SandboxSpec(labels=labels, image=asked["image"]))
    opened.append(sandbox)
    if number < asked["busy"]:
        sandbox.start(Command(["sleep", "600"]))
print(json.dumps([sandbox.id for sandbox in opened]), flush=True)
sys.stdin.read()
for sandbox in opened:
    sandbox.close()
"""


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed with --json."""
        return json.loads(self.out)


def command(*words: str, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Done:
    """Run ``metaflow-sandbox WORDS…``."""
    return ended([*CLI, *words], env, cwd)


def ended(words: list[str], env: Mapping[str, str] | None, cwd: Path | None) -> Done:
    """Run a program to its end."""
    done = subprocess.run(
        words,
        env=flow_environment(env),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Done(done.returncode, done.stdout, done.stderr)


def place_of(directory: Path) -> dict[str, str]:
    """The environment in which all that is remembered of sandboxes is below a directory."""
    directory.mkdir(exist_ok=True)
    return {"TMPDIR": str(directory), "XDG_RUNTIME_DIR": ""}


@dataclass
class Opener:
    """A process that has opened sandboxes."""

    process: subprocess.Popen[str]
    ids: list[str]

    def die(self) -> None:
        """End it and whoever would clean up behind it, at once, as a lack of memory does."""
        for pid in (*children(self.process.pid), self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


def children(pid: int) -> list[int]:
    """Its children that are wardens: they end what it leaves."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found if b"/bin/sh" in Path(f"/proc/{child}/cmdline").read_bytes()]


@contextlib.contextmanager
def opened(
    count: int,
    env: Mapping[str, str],
    *,
    backend: str = "bubblewrap",
    run: str = "12",
    image: str | None = None,
    busy: int = 1,
    owned: bool = True,
) -> Iterator[Opener]:
    """Sandboxes of a process of their own; a command runs in the first ``busy`` of them."""
    asked = {
        "count": count,
        "backend": backend,
        "run": run,
        "image": image,
        "busy": busy,
        "owned": owned,
    }
    with subprocess.Popen(
        [sys.executable, "-c", OPENER, json.dumps(asked)],
        env=flow_environment(env),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin
        assert process.stdout
        try:
            yield Opener(process, json.loads(process.stdout.readline()))
        finally:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            process.wait(TIMEOUT)


class SilentBackend:
    """A provider that never answers, whatever it is asked: METAFLOW's --backend takes it by its path."""

    features: frozenset[Any] = frozenset()
    isolation = 3

    def _hang(self, *_: object) -> Any:
        import threading

        threading.Event().wait()

    check = open = list = destroy = _hang


class BrokenBackend:
    """A provider whose SDK fails in a way of its own."""

    features: frozenset[Any] = frozenset()
    isolation = 3

    def _fail(self, *_: object) -> Any:
        raise RuntimeError("the provider's own words")

    check = open = list = destroy = _fail


SILENT = f"{__name__}:{SilentBackend.__name__}"
BROKEN = f"{__name__}:{BrokenBackend.__name__}"
