"""What a task registers: its artifacts, attempt by attempt, and its metadata."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .records import Record, RecordPath, Records, milliseconds, names, write
from .refusals import Refusal, checked_name

METADATA = re.compile(r"sysmeta_.*_(\d+)\.json")
LONGEST_FIELD = 120  # bytes of a field's name in the name of its file
ANY = ".*"


class TaskRecords:
    """Artifacts and metadata of the tasks in a store."""

    def __init__(self, records: Records) -> None:
        self._records = records

    # --- artifacts ----------------------------------------------------------------------------

    def artifacts(self, task: RecordPath, attempt: int | None = None) -> list[Record]:
        """Those of an attempt; of the latest that is done when none is given."""
        return self._artifacts(task, attempt, "")

    def artifact(self, task: RecordPath, name: str, attempt: int | None = None) -> Record:
        """One by its name. Raises Refusal with 404."""
        for record in self._artifacts(task, attempt, f"{name}.json"):
            return record
        raise Refusal(404, f"there is no artifact {name} of task {'/'.join(task)}")

    def _artifacts(self, task: RecordPath, attempt: int | None, start: str) -> list[Record]:
        if not self._records.exists(task):
            return []
        folder = self._records.folder(task)
        if attempt is None:
            done = (
                record
                for record in read(folder, "sysmeta_attempt-done_")
                if record["field_name"] == "attempt-done"
            )
            attempt = max((int(record["value"]) for record in done), default=None)
        if attempt is None:
            return []
        run = self._records.one(task[:2])
        tags = {"tags": run["tags"], "system_tags": run["system_tags"]}
        return [{**record, **tags} for record in read(folder, f"{attempt}_artifact_{start}")]

    def add_artifacts(self, task: RecordPath, entries: Sequence[Mapping[str, Any]]) -> None:
        """Keep the artifacts; what an attempt has registered before stays. Raises Refusal."""
        folder = self._existing(task)
        for entry in entries:
            attempt = entry.get("attempt_id", 0)
            if not isinstance(attempt, int) or attempt < 0:
                raise Refusal(400, f"{attempt!r:.80} is no attempt: attempt_id has to be a number from 0")
            name = f"{attempt}_artifact_{checked_name(entry.get('name'))}"
            if not (folder / f"{name}.json").exists():
                write(folder, name, dict(entry))

    # --- metadata -----------------------------------------------------------------------------

    def metadata(self, task: RecordPath) -> list[Record]:
        """All of it, of every attempt."""
        return [*read(self._records.folder(task), "sysmeta_")]

    def add_metadata(self, task: RecordPath, entries: Sequence[Mapping[str, Any]]) -> None:
        """Keep the entries, later than all that the task has: readers take the latest. Raises Refusal."""
        folder = self._existing(task)
        known = (METADATA.fullmatch(name) for name in names(folder))
        newest = max((int(found.group(1)) for found in known if found), default=0)
        # Two entries of one millisecond must not share a file, and the clock may have been set back.
        times = [max(milliseconds(entry.get("ts_epoch")), newest + 1) for entry in entries]
        number = max(round(time.time() * 1000), *times, newest + 1)
        for offset, entry in enumerate(entries):
            field = entry.get("field_name")
            if not isinstance(field, str):
                raise Refusal(400, f"{field!r:.80} is no field: field_name has to be a string")
            name = quote(field, safe="")[:LONGEST_FIELD]
            write(folder, f"sysmeta_{name}_{number + offset}", {**entry, "ts_epoch": times[offset]})

    def tasks_with(self, step: RecordPath, field: str, pattern: str) -> list[str]:
        """Paths of the step's tasks with metadata of that field whose value holds the pattern.

        An empty field is any. Raises Refusal for what is no regular expression.
        """
        try:
            wanted = re.compile(pattern)
        except re.error as error:
            raise Refusal(400, f"{pattern!r:.200} is no regular expression: {error}") from error
        tasks = [(*step, str(record["task_id"])) for record in self._records.below(step)]
        return [
            "/".join(task)
            for task in tasks
            if pattern == ANY
            or any(
                (not field or entry.get("field_name") == field)
                and wanted.search("" if entry.get("value") is None else str(entry["value"]))
                for entry in self.metadata(task)
            )
        ]

    def _existing(self, task: RecordPath) -> Path:
        if not self._records.exists(task):
            raise Refusal(404, f"there is no task {'/'.join(task)}")
        return self._records.folder(task)


def read(folder: Path, start: str) -> Iterator[Record]:
    """The records whose files' names start so, sorted by name; none where there is no such directory."""
    for name in sorted(names(folder)):
        if name.startswith(start) and name.endswith(".json"):
            yield json.loads((folder / name).read_text())
