"""A task as the Client of Metaflow sees it, by its path."""

from __future__ import annotations

import argparse
from typing import Any

from ..errors import SandboxError

DEPTH = 4  # Flow/run/step/task


class NoSuchTask(SandboxError):
    """No task has the path that was given."""


def full_path(given: str, options: argparse.Namespace) -> str:
    """Flow/run/step/task; behind a flow's file the flow may be left out. Raises NoSuchTask."""
    parts = given.strip("/").split("/")
    context = getattr(options, "context", None)
    if len(parts) == DEPTH - 1 and context is not None:
        parts = [context.name, *parts]
    if len(parts) != DEPTH or not all(parts):
        flow = "" if context is not None else "FLOW/"
        raise NoSuchTask(f"{given!r} is not the path of a task: {flow}RUN/STEP/TASK")
    return "/".join(parts)


def find(path: str, attempt: int | None) -> Any:
    """The Client's task. Raises NoSuchTask."""
    # Late: it takes longer than everything else here.
    from metaflow import Task, namespace
    from metaflow.exception import MetaflowException

    namespace(None)
    try:
        return Task(path, attempt=attempt)
    except MetaflowException as error:
        raise NoSuchTask(
            f"there is no task {path!r}{'' if attempt is None else f', attempt {attempt}'} "
            f"({str(error).strip()}): is this the directory where the flow ran, or is "
            "METAFLOW_DEFAULT_METADATA set as it was there?"
        ) from error
