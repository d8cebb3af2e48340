"""Flows, runs, steps and tasks in ``.metaflow``, as Metaflow's local provider keeps them.

All writing happens on one thread, so that what is looked at before a write still holds then.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

from metaflow.plugins.metadata_providers.local import LocalMetadataProvider
from metaflow_local_service import store as upstream

from .refusals import Refusal, checked_name

Record: TypeAlias = dict[str, Any]
RecordPath: TypeAlias = Sequence[str]  # flow, run, step, task: as many as name the record
KINDS = ("root", "flow", "run", "step", "task")
FIELDS = ("flow_id", "run_number", "step_name", "task_id")
META = "_meta"


class Records:
    """The store of one ``.metaflow``."""

    def __init__(self, root: Path) -> None:
        """``root`` holds ``.metaflow``, which is made where it is missing. Raises OSError."""
        upstream.setup(str(root))
        self._place = Path(os.path.realpath(root / LocalMetadataProvider.DATASTORE_DIR))
        self._last_task: dict[RecordPath, int] = {}

    def folder(self, path: RecordPath) -> Path:
        """Where a record's files are."""
        return self._place.joinpath(*path, META)

    # --- reading ------------------------------------------------------------------------------

    def exists(self, path: RecordPath) -> bool:
        """Whether there is such a record."""
        return (self.folder(path) / "_self.json").is_file()

    def one(self, path: RecordPath) -> Record:
        """A record, with its run's tags. Raises Refusal with 404."""
        kind = KINDS[len(path)]
        found: Record | None = LocalMetadataProvider.get_object(kind, "self", {}, None, *path)
        if found is None:
            raise Refusal(404, f"there is no {kind} {'/'.join(path)}")
        return found

    def below(self, path: RecordPath) -> list[Record]:
        """The records one level down, each with its run's tags."""
        level = len(path)
        found = LocalMetadataProvider.get_object(KINDS[level], KINDS[level + 1], {}, None, *path)
        return list(found or [])

    # --- writing ------------------------------------------------------------------------------

    def create(self, path: RecordPath, body: Mapping[str, Any]) -> Record:
        """Make a record of that path. Raises Refusal: 409 where it exists, 404 where its parent does not."""
        kind = KINDS[len(path)]
        if self.exists(path):
            raise Refusal(409, f"the {kind} {'/'.join(path)} exists")
        if len(path) > 1 and not self.exists(path[:-1]):
            raise Refusal(404, f"there is no {KINDS[len(path) - 1]} {'/'.join(path[:-1])}")
        record: Record = {
            **dict(zip(FIELDS, path, strict=False)),
            "user_name": body.get("user_name"),
            "tags": texts(body, "tags"),
            "system_tags": texts(body, "system_tags"),
            "ts_epoch": milliseconds(body.get("ts_epoch")),
        }
        write(self.folder(path), "_self", record)
        return record

    def create_run(self, flow: str, body: Mapping[str, Any]) -> Record:
        """Make a run of the id that the body chooses, or of one above all that the flow has."""
        if not self.exists((flow,)):
            self.create((flow,), {"ts_epoch": body.get("ts_epoch")})
        chosen = body.get("run_number")
        if chosen is not None:
            return self.create((flow, checked_name(str(chosen))), body)
        number = int(upstream.new_run_id())
        while True:
            # The clock may have been set back since the last run, in this process or before.
            number = max([number, *(known + 1 for known in numbers(self._place / flow))])
            try:
                (self._place / flow / str(number)).mkdir()
            except FileExistsError:
                continue
            return self.create(
                (flow, str(number)),
                {**body, "ts_epoch": max(milliseconds(body.get("ts_epoch")), number // 1000)},
            )

    def create_task(self, flow: str, run: str, step: str, body: Mapping[str, Any]) -> Record:
        """Make a task of the id that the body chooses, or of the next number of the run; and its step."""
        if not self.exists((flow, run, step)):
            self.create((flow, run, step), body)
        chosen = body.get("task_id")
        if chosen is not None:
            return self.create((flow, run, step, checked_name(str(chosen))), body)
        if (flow, run) not in self._last_task:
            steps = (entry for entry in (self._place / flow / run).iterdir() if entry.is_dir())
            self._last_task[flow, run] = max((known for step in steps for known in numbers(step)), default=0)
        self._last_task[flow, run] += 1
        return self.create((flow, run, step, str(self._last_task[flow, run])), body)


def numbers(folder: Path) -> list[int]:
    """The names in a directory that are numbers."""
    return [int(name) for name in names(folder) if name.isascii() and name.isdigit()]


def names(folder: Path) -> list[str]:
    """The names in a directory, none where there is no such one."""
    try:
        return os.listdir(folder)  # noqa: PTH208 -- no path is needed of any of them
    except FileNotFoundError:
        return []


def milliseconds(given: Any) -> int:
    """A time that the body gives, in milliseconds since the epoch; now for None. Raises Refusal."""
    if given is None:
        return round(time.time() * 1000)
    if not isinstance(given, (int, float)) or isinstance(given, bool):
        raise Refusal(400, f"{given!r:.80} is no time: ts_epoch has to be in milliseconds since the epoch")
    return round(given)


def texts(body: Mapping[str, Any], name: str) -> list[str]:
    """The list of strings of that name in the body. Raises Refusal."""
    found = body.get(name) or []
    if not isinstance(found, list) or not all(isinstance(entry, str) for entry in found):
        raise Refusal(400, f"{name} has to be a list of strings")
    return found


def write(folder: Path, name: str, record: Record) -> None:
    """Write FOLDER/NAME.json, at once or not at all. Raises OSError with the folder's name."""
    draft = folder / f".{name}.{os.getpid()}"
    text = json.dumps(record)
    try:
        try:
            draft.write_text(text)
        except FileNotFoundError:
            folder.mkdir(parents=True, exist_ok=True)
            draft.write_text(text)
        draft.rename(folder / f"{name}.json")
    except OSError as error:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        # A full disk's own error names no file.
        raise OSError(error.errno, error.strerror, str(folder)) from error
