"""Changing a run's tags."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metaflow.exception import MetaflowTaggingError
from metaflow.tagging_util import validate_tags

from .records import Records, texts, write
from .refusals import Refusal


def change_tags(records: Records, flow: str, run: str, body: Mapping[str, Any]) -> list[str]:
    """Take tags away, then add others; the user's tags afterwards. Raises Refusal."""
    path = (flow, run)
    if not records.exists(path):
        # Metaflow would ask ten times after a 404.
        raise Refusal(422, f"there is no run {flow}/{run}")
    record = records.one(path)
    removed, added = frozenset(texts(body, "tags_to_remove")), frozenset(texts(body, "tags_to_add"))
    system, before = frozenset(record["system_tags"]), frozenset(record["tags"])
    if removed & system:
        raise Refusal(422, f"Cannot remove a tag that is an existing system tag ({sorted(removed & system)})")
    after = (before - removed) | (added - system)
    if after != before:
        try:
            validate_tags(after, existing_tags=before)
        except MetaflowTaggingError as error:
            raise Refusal(422, str(error)) from error
        write(records.folder(path), "_self", {**record, "tags": sorted(after)})
    return sorted(after)
