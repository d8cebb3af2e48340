"""METAFLOW_SANDBOX_DEBUG: what a task's sandbox is made of and runs, and its relay's frames, as files."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..backends.interface import Command, SandboxSpec, Secret
from ..relay.policy import TaskIdentity

LONGEST = 200  # characters of a text in a frame
MOST = 50  # entries of a list in a frame
MASK = "***"


class DebugFiles:
    """Those of one attempt; secrets are masked, so that they can be shown to others."""

    def __init__(self, base: str, identity: TaskIdentity) -> None:
        names = (identity.flow, identity.run, identity.step, identity.task, str(identity.attempt))
        self.directory = Path(base, *names)
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._writing = threading.Lock()
        self._started = time.monotonic()

    def command(self, command: Command, spec: SandboxSpec) -> None:
        """The exact script, the names of its environment, and the spec."""
        script = f"#!/bin/sh\n# Run inside, in {command.cwd or 'its working directory'}.\nexec "
        words = " \\\n    ".join(shlex.quote(word) for word in command.argv)
        (self.directory / "script.sh").write_text(f"{script}{words}\n")
        variables = "".join(f"{name}={MASK}\n" for name in sorted(command.env))
        (self.directory / "environment.txt").write_text(variables)
        fields = {
            field.name: getattr(spec, field.name)
            for field in dataclasses.fields(spec)
            if field.name != "tell"
        }
        plain = json.dumps(fields, default=_plain, indent=2)
        (self.directory / "spec.json").write_text(f"{plain}\n")

    def frame(self, side: str, header: Mapping[str, Any]) -> None:
        """One frame of the relay: all of what a guest asks, and of the answer what is no content."""
        shown = {
            name: _short(value) if side == "guest" or name == "error" else _outline(value)
            for name, value in header.items()
        }
        line = {"seconds": round(time.monotonic() - self._started, 4), "from": side, "header": shown}
        with self._writing, (self.directory / "frames.jsonl").open("a") as file:
            file.write(f"{json.dumps(line)}\n")


def _plain(value: Any) -> Any:
    if isinstance(value, Secret):
        return {"name": value.name, "value": MASK, "hosts": value.hosts}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return dict(value)
    return os.fspath(value)


def _short(value: Any) -> Any:
    if isinstance(value, str):
        return value if len(value) <= LONGEST else f"{value[:LONGEST]}… ({len(value)} characters)"
    if isinstance(value, Mapping):
        return {name: _short(inner) for name, inner in list(value.items())[:MOST]}
    if isinstance(value, list):
        return [_short(inner) for inner in value[:MOST]] + [f"… ({len(value)})"] * (len(value) > MOST)
    return value


def _outline(value: Any) -> Any:
    """Without content: answers carry secrets and data."""
    if isinstance(value, (str, list, Mapping)):
        return f"{type(value).__name__} of {len(value)}"
    return value
