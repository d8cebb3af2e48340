"""What is told to a loader that starts a command inside (``guest/exec_loader.py`` and its like)."""

from __future__ import annotations

from typing import Any

from ..errors import StartFailed
from .interface import Command


def job(command: Command, **more: Any) -> dict[str, Any]:
    """The command as JSON holds it. Raises StartFailed for what no system starts."""
    texts = [*command.argv, *command.env, *command.env.values(), str(command.cwd or "")]
    if any("\0" in text for text in texts):
        raise StartFailed("a command, its environment and its directory can't hold NUL characters")
    if not command.argv or not command.argv[0]:
        raise StartFailed("a command needs a program")
    if any(not name or "=" in name for name in command.env):
        raise StartFailed("names of a command's environment can't be empty or hold '='")
    return {
        "argv": list(command.argv),
        "env": dict(command.env),
        "cwd": str(command.cwd) if command.cwd else None,
        "stdin": command.stdin,
        **more,
    }
