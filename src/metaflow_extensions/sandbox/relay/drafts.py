"""Names in direct mode of what a task hands in, which the launcher looks at before it has its real name."""

from __future__ import annotations

TASK_VARIABLE = "METAFLOW_SANDBOX_DIRECT_TASK"  # FLOW/RUN/STEP/TASK/ATTEMPT
RESULTS = "data.json"
DONE = "DONE.lock"
RECORDS = "sandbox_records.tgz"  # the metadata that the task has written


def draft_names(task: str) -> dict[str, str]:
    """Path of each of the two files below the datastore's root, and of its draft.

    ``task`` is FLOW/RUN/STEP/TASK/ATTEMPT.
    """
    return {own_file(task, name): own_file(task, f"sandbox_{name}") for name in (RESULTS, DONE)}


def own_file(task: str, name: str) -> str:
    """Path of one of an attempt's own files."""
    directory, _, attempt = task.rpartition("/")
    return f"{directory}/{attempt}.{name}"
