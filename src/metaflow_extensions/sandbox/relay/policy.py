"""What one task may read and write, decided from the paths alone.

The identity of a task is the channel it came through; nothing that a guest claims is used.
Paths are those of Metaflow's datastore, relative to its root:

    FLOW/data/XX/SHA1                         a content-addressed blob of the flow
    FLOW/RUN/STEP/TASK/ATTEMPT.NAME           a task's own files
    FLOW/runs/RUN/steps/STEP/tasks/TASK/…     a task's cards, below the cards' root
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from ..errors import RelayError

MAX_PATH = 1024  # characters
SHA1 = re.compile(r"[0-9a-f]{40}")
RUN_STEP_TASK = 3
# Written by the scheduler about a task, so never by the task itself; what ends in _meta is to the local
# datastore what another file's metadata is.
LAUNCHERS_OWN = re.compile(r"runtime(_|\.)|.*_resume_")


class Kind(enum.Enum):
    """What a path names."""

    BLOB = "blob"
    OWN = "own"
    CARD = "card"
    INPUT = "input"


@dataclass(frozen=True)
class TaskIdentity:
    """One attempt of one task."""

    flow: str
    run: str
    step: str
    task: str
    attempt: int

    @property
    def pathspec(self) -> str:
        """RUN/STEP/TASK."""
        return f"{self.run}/{self.step}/{self.task}"

    @property
    def key(self) -> str:
        """RUN/STEP/TASK/ATTEMPT, unique within a flow."""
        return f"{self.pathspec}/{self.attempt}"


@dataclass(frozen=True)
class Policy:
    """The rules for one task.

    ``inputs`` are RUN/STEP/TASK of the tasks it follows; the run's parameters are always among
    what may be read.
    """

    identity: TaskIdentity
    inputs: frozenset[str]

    def reading(self, path: str) -> Kind:
        """What ``path`` names. Raises RelayError when this task may not read it."""
        kind = self._kind(split(path), listing=False)
        if kind is None:
            raise RelayError(f"read of {path!r}: neither this task's own nor one of its inputs")
        return kind

    def listing(self, path: str) -> Kind:
        """The same for a directory that is to be listed."""
        kind = self._kind(split(path), listing=True)
        if kind is None or kind is Kind.BLOB:
            raise RelayError(f"listing of {path!r}: neither this task's own nor one of its inputs")
        return kind

    def writing(self, path: str) -> Kind:
        """What ``path`` names. Raises RelayError when this task may not write it."""
        parts = split(path)
        kind = self._kind(parts, listing=False)
        if kind is None or kind is Kind.INPUT:
            raise RelayError(f"write to {path!r}: not this task's own")
        if kind is Kind.OWN:
            attempt, _, name = parts[-1].partition(".")
            if attempt != str(self.identity.attempt) or not name:
                raise RelayError(f"write to {path!r}: not a file of attempt {self.identity.attempt}")
            if LAUNCHERS_OWN.match(name) or name.endswith("_meta"):
                raise RelayError(f"write to {path!r}: the launcher's own record of the task")
        return kind

    def _kind(self, parts: list[str], *, listing: bool) -> Kind | None:
        me = self.identity
        if parts[0] != me.flow:
            return None
        rest = parts[1:]
        if len(rest) == 3 and rest[0] == "data" and not listing:
            return Kind.BLOB if SHA1.fullmatch(rest[2]) and rest[1] == rest[2][:2] else None
        if rest[:6] == ["runs", me.run, "steps", me.step, "tasks", me.task]:
            return Kind.CARD if len(rest) == (7 if listing else 8) else None
        if rest[:4] == ["runs", me.run, "tasks", me.task] and listing:
            return Kind.CARD
        if len(rest) == RUN_STEP_TASK + (0 if listing else 1):
            pathspec = "/".join(rest[:RUN_STEP_TASK])
            if pathspec == me.pathspec:
                return Kind.OWN
            if pathspec in self.inputs or rest[:2] == [me.run, "_parameters"]:
                return Kind.INPUT
        return None


def split(path: str) -> list[str]:
    """The components of a relative path. Raises RelayError for one that is not in normal form."""
    if not isinstance(path, str) or not path or len(path) > MAX_PATH:
        raise RelayError("a path is text of 1 to 1,024 characters")
    parts = path.split("/")
    if any(part in ("", ".", "..") or not part.isprintable() or "\\" in part for part in parts):
        raise RelayError(f"the path {path!r} is not in normal form")
    return parts
