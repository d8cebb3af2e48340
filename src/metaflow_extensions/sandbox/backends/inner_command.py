"""What is told to a loader that starts a command inside (``guest/exec_loader.py`` and its like)."""

from __future__ import annotations

from typing import Any

from ..errors import StartFailed
from ..guest.exec_loader import encoded
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


def pack(job: dict[str, Any]) -> bytes:
    """A job as the loader's ``parse`` reads it. Raises StartFailed."""
    flags = ("S" if job["stdin"] else "") + ("R" if job["resumes"] else "")
    pairs = [text for pair in job["env"].items() for text in pair]
    words = [flags, job["cwd"] or "", str(len(job["argv"])), *job["argv"], *pairs]
    try:
        return b"\0".join(map(encoded, words))
    except UnicodeEncodeError as error:
        raise StartFailed(
            f"a command, its environment and its directory can't hold {error.object[:80]!r}"
        ) from error
