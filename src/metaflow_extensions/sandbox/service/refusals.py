"""What the service refuses, with the HTTP status that says so to Metaflow's provider."""

from __future__ import annotations

import errno
from typing import Any

from ..errors import ServiceError

LONGEST_NAME = 200  # bytes; a file of that name and its attempt, in the store, may have 255
# Patterns would match other records, the others would leave the store.
FORBIDDEN = frozenset("/\\*?[]\0")
RESERVED = ("", ".", "..", "_meta")


class Refusal(ServiceError):
    """A request that cannot be honoured; ``status`` is the answer's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def checked_name(name: Any) -> str:
    """A flow's, run's, step's, task's or artifact's name. Raises Refusal unless it is a plain one."""
    if not isinstance(name, str):
        raise Refusal(400, f"{name!r:.80} is no name: it has to be a string")
    if len(name.encode(errors="replace")) > LONGEST_NAME:
        raise Refusal(400, f"the name {name[:40]!r}… is over {LONGEST_NAME} bytes long: use a shorter one")
    if name in RESERVED or not FORBIDDEN.isdisjoint(name) or any(ord(letter) < 32 for letter in name):
        raise Refusal(400, f"{name!r} cannot be a name: use letters, digits, '_', '-' and '.'")
    return name


def of_disk(error: OSError) -> Refusal:
    """The refusal for a store that cannot be read or written."""
    causes = {
        errno.ENOSPC: (507, "its disk is full: free some space"),
        errno.EDQUOT: (507, "your quota of its disk is used up: free some space"),
        errno.EROFS: (
            507,
            "its file system is read-only: mount it writable, or name another --metaflow-root",
        ),
        errno.EACCES: (507, "its files are not writable for the service's user: change their owner or mode"),
    }
    status, cause = causes.get(error.errno or 0, (500, f"{type(error).__name__}: {error}"))
    return Refusal(status, f"the metadata service cannot use its store, {error.filename}: {cause}")
