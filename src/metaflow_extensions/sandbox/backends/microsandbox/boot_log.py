"""What the runtime says of a boot: its log goes with a sandbox that did not start, unless it is held open."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from pathlib import Path
from typing import IO

KEEP = "METAFLOW_SANDBOX_MICROSANDBOX_LOGS"
NAMES = ("runtime.log", "kernel.log")
POLL = 0.02  # seconds
LONGEST = 800  # characters of the paragraph
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_STAMP = re.compile(r"^\S+Z\s+(?P<level>[A-Z]+) ")


class BootLog:
    """The logs of one sandbox of this machine, in the directory that the runtime will make."""

    def __init__(self, home: Path, sandbox_id: str) -> None:
        self._directory = home / "sandboxes" / sandbox_id / "logs"
        self._id = sandbox_id
        self._open: dict[str, IO[bytes]] = {}

    async def follow(self) -> None:
        """Open each as soon as it is there; to be cancelled."""
        while len(self._open) < len(NAMES):
            for name in set(NAMES) - set(self._open):
                with contextlib.suppress(OSError):
                    self._open[name] = (self._directory / name).open("rb")
            await asyncio.sleep(POLL)

    def close(self) -> None:
        """Let go of them."""
        while self._open:
            self._open.popitem()[1].close()

    def paragraph(self) -> str:
        """What they say of the failure, and where they are."""
        texts = {
            name: _COLOURS.sub("", file.read().decode(errors="replace")) for name, file in self._open.items()
        }
        said = _errors(texts.get("runtime.log", "")) or _last(texts.get("runtime.log", ""))
        kernel = _last(texts.get("kernel.log", ""))
        parts = [f"Its runtime says: {said}." if said else "Its runtime says nothing."]
        if kernel:
            parts.append(f"The guest's kernel says last: {kernel}.")
        parts.append(self._where(texts))
        return " ".join(parts)

    def _where(self, texts: dict[str, str]) -> str:
        keep = os.environ.get(KEEP)
        if not keep:
            return f"The logs went with the sandbox: set {KEEP} to a directory to have them kept there."
        directory = Path(keep, self._id)
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name, text in texts.items():
            (directory / name).write_text(text)
        return f"The logs are in {directory}."


def _errors(log: str) -> str:
    lines = [
        line
        for line in log.splitlines()
        if (found := _STAMP.match(line)) and found["level"] in ("ERROR", "WARN")
    ]
    return _shortly(lines)


def _last(log: str) -> str:
    return _shortly([line for line in log.splitlines() if line.strip()][-3:])


def _shortly(lines: list[str]) -> str:
    return "; ".join(_STAMP.sub("", line).strip() for line in lines)[-LONGEST:]
