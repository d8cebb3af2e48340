"""What a task may say about itself to the metadata provider, and what it may ask.

Names become parts of file names and of URLs there, and readers look for them with patterns, so each is
one plain name. Some entries tell Metaflow's client where to read and what it may trust: those have to
say what the launcher knows already.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import RelayError
from .policy import TaskIdentity

NAME = re.compile(r"\w[\w.:+@-]*")
MAX_NAME = 200  # bytes; with what the local provider adds, a file name of at most 255
MAX_LABEL = 255  # characters of a type or tag; the metadata service has columns of that size
# The launcher's own record of a task's sandbox begins with this.
OURS = "sandbox-"
# Where Metaflow's client reads a task's logs, artifacts and code: the launcher's facts or nothing.
LOCATIONS = ("ds-type", "ds-root", "code-package")
OLD_LOCATION = "log_location_"  # Metaflow 1: a path or URL that the client would open
# Only of a task that was cloned, by the scheduler: the client follows it to the other task's records.
CLONED_FROM = "origin-task-id"
ATTEMPT_DONE = "attempt-done"  # the local provider reads every file whose name begins so
ATTEMPT_TAG = "attempt_id:"
FILTERS = ("any_tags", "tags", "system_tags")
# How many names lead to an object of each kind: FLOW/RUN/STEP/TASK/ARTIFACT.
DEPTHS = {"run": 2, "step": 3, "task": 4, "artifact": 5}
PARTS = ("step", "task", "artifact", "metadata", "self")

Entry = tuple[str, str | None, str, list[str]]


def check_name(what: str, name: str) -> str:
    """Return ``name``. Raises RelayError unless it is one plain name."""
    if not NAME.fullmatch(name) or len(name.encode()) > MAX_NAME:
        raise RelayError(
            f"{what} {name[:MAX_NAME]!r}: letters, digits and _.:+@- only, at most {MAX_NAME} bytes"
        )
    return name


def check_entry(entry: Entry, identity: TaskIdentity, facts: Mapping[str, str]) -> None:
    """Raise RelayError unless the task may register this (field, value, type, tags) about itself.

    ``facts`` are what the launcher knows of the fields in LOCATIONS.
    """
    field, value, kind, tags = entry
    check_name("the metadata field", field)
    if field.startswith((OURS, OLD_LOCATION, CLONED_FROM)) or (
        field.startswith(ATTEMPT_DONE) and field != ATTEMPT_DONE
    ):
        raise RelayError(f"the metadata field {field!r} is not the task's to write")
    attempt = str(identity.attempt)
    if field in ("attempt", ATTEMPT_DONE) and value != attempt:
        raise RelayError(
            f"the metadata field {field!r} says {str(value)[:80]!r}, and this is attempt {attempt}"
        )
    if field in LOCATIONS and (value is None or value != facts.get(field)):
        raise RelayError(f"the metadata field {field!r} says {str(value)[:200]!r}: not this run's")
    for label in (kind, *tags):
        if len(label) > MAX_LABEL or not label.isprintable():
            raise RelayError(f"{label[:MAX_LABEL]!r} of the metadata field {field!r} is no short label")
        if label.startswith(ATTEMPT_TAG) and label != ATTEMPT_TAG + attempt:
            raise RelayError(
                f"the metadata field {field!r} has the tag {label!r}, and this is attempt {attempt}"
            )


def check_question(
    kind: str, sub_kind: str, filters: Mapping[str, Any], path: Sequence[str], identity: TaskIdentity
) -> None:
    """Raise RelayError unless the question is about this run, or about the flow itself."""
    for part in path:
        check_name("the metadata of", part)
    about_the_flow = (kind, sub_kind, list(path)) == ("flow", "self", [identity.flow])
    about_the_run = (
        list(path[:2]) == [identity.flow, identity.run]
        and len(path) == DEPTHS.get(kind)
        and sub_kind in PARTS
    )
    if not about_the_flow and not about_the_run:
        raise RelayError(f"read of the metadata of {'/'.join(path)[:200]!r} ({kind[:40]!r}): not this run")
    if not all(key in FILTERS and isinstance(value, str) for key, value in filters.items()):
        raise RelayError("the metadata filters are not tags")


def check_artifact(
    entry: Mapping[str, str | None], datastore: str, accepted: Mapping[str, tuple[str, str]]
) -> None:
    """Raise RelayError unless the fields of a DataArtifact are those of one that the task has handed in.

    ``datastore`` is TYPE@ROOT, ``accepted`` maps names to (SHA-1, encoding).
    """
    name = check_name("the artifact", str(entry["name"]))
    if f"{entry['ds_type']}@{entry['ds_root']}" != datastore or entry["url"] is not None:
        raise RelayError(f"the artifact {name!r} in another storage than the task's")
    # Metaflow's client unpickles what is registered, and only what was handed in was vetted.
    if accepted.get(name) != (entry["sha"], entry["type"]):
        raise RelayError(f"the artifact {name!r} is not what the task has saved")
