"""What can't be a command anywhere."""

from __future__ import annotations

from ..errors import StartFailed
from .interface import Command


def check_command(command: Command) -> None:
    """Raise StartFailed for what no system starts."""
    texts = [*command.argv, *command.env, *command.env.values(), str(command.cwd or "")]
    if any("\0" in text for text in texts):
        raise StartFailed("a command, its environment and its directory can't hold NUL characters")
    if not command.argv or not command.argv[0]:
        raise StartFailed("a command needs a program")
    if any(not name or "=" in name for name in command.env):
        raise StartFailed("names of a command's environment can't be empty or hold '='")
