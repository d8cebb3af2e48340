"""MetalBox for the tests: its real server where there is one, else the stand-in."""

from __future__ import annotations

import platform
import shlex
import sys
from pathlib import Path

from metaflow_extensions.sandbox.backends.metalbox.server import CHOICE

REAL = (sys.platform, platform.machine()) == ("darwin", "arm64")
STAND_IN = Path(__file__).with_name("metalbox_server.py")


def settings(directory: Path, guard: float = 5.0) -> dict[str, str]:
    """The environment that makes the backend use it; ``guard`` is in seconds, for the stand-in alone."""
    if REAL:
        return {}
    program = directory / "metalbox-dashboard"
    words = [sys.executable, "-I", "-S", str(STAND_IN), "--guard", str(guard)]
    program.write_text(f"#!/bin/sh\nexec {shlex.join(words)}\n")
    program.chmod(0o755)
    return {CHOICE: str(program)}
