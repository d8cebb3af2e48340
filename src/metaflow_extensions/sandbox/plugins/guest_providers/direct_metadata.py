"""The metadata provider in direct mode: files in ``.metaflow``, which the launcher fetches and registers.

Questions about anything but the task itself go to the launcher, which knows the run.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

from metaflow.metaflow_config import DATASTORE_LOCAL_DIR

from ...relay.drafts import TASK_VARIABLE
from .metadata import RelayMetadata
from .records_upload import RecordsUpload

PLACE_VARIABLE = "METAFLOW_SANDBOX_RECORDS"
# The same in all processes of the task, wherever the step changes its directory to.
ROOT = Path(os.environ.setdefault(PLACE_VARIABLE, str(Path.cwd() / DATASTORE_LOCAL_DIR)))
TASK, _, ATTEMPT = os.environ[TASK_VARIABLE].rpartition("/")
RECORDS = ROOT / TASK / "_meta"  # as the local provider has it


class DirectMetadata(RelayMetadata):
    """Writes what the local provider would write."""

    _upload: ClassVar[RecordsUpload] = RecordsUpload(ROOT, RECORDS)
    _numbers: ClassVar[itertools.count[int]] = itertools.count()

    def register_metadata(self, run_id: Any, step_name: str, task_id: Any, metadata: list[Any]) -> None:
        """Add entries to the task."""
        for entry in self._metadata_to_json(run_id, step_name, task_id, metadata):
            # Numbered: of those that the local provider writes in one millisecond, one is kept.
            moment = f"{entry['ts_epoch']}-{os.getpid()}-{next(self._numbers):06d}"
            self._write(f"sysmeta_{quote(str(entry['field_name']), safe='')[:150]}_{moment}", entry)
        self._upload.changed()

    def register_data_artifacts(
        self, run_id: Any, step_name: str, task_id: Any, attempt_id: int, artifacts: list[Any]
    ) -> None:
        """Add artifacts to the task."""
        for entry in self._artifacts_to_json(run_id, step_name, task_id, attempt_id, artifacts):
            self._write(f"{attempt_id}_artifact_{quote(entry['name'], safe='')[:150]}", entry)
        self._upload.changed()

    @staticmethod
    def _write(name: str, entry: dict[str, Any]) -> None:
        RECORDS.mkdir(parents=True, exist_ok=True)
        draft = RECORDS / f".{name}.{os.getpid()}"
        draft.write_text(json.dumps(entry), encoding="utf-8")
        draft.rename(RECORDS / f"{name}.json")

    @classmethod
    def _get_object_internal(
        cls,
        obj_type: str,
        obj_order: int,
        sub_type: str,
        sub_order: int,
        filters: dict[str, Any] | None,
        attempt: int | None,
        *args: str,
    ) -> Any:
        known = super()._get_object_internal(
            obj_type, obj_order, sub_type, sub_order, filters, attempt, *args
        )
        if "/".join(str(part) for part in args[:4]) != TASK:
            return known
        if obj_type == "task" and sub_type == "metadata":
            own = read("sysmeta_*.json")
            told = {identity(entry) for entry in own}
            # Some of them may have got to the launcher already.
            return [entry for entry in known or [] if identity(entry) not in told] + own
        if "artifact" in (obj_type, sub_type) and str(ATTEMPT if attempt is None else attempt) == ATTEMPT:
            own = read(f"{ATTEMPT}_artifact_{quote(args[4], safe='') if len(args) > 4 else '*'}.json")
            if obj_type == "artifact":
                return own[0] if own else known
            return own or known
        return known


def read(pattern: str) -> list[dict[str, Any]]:
    """The task's own records in files of such names, oldest first."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in RECORDS.glob(pattern)]
    return sorted(found, key=lambda entry: entry.get("ts_epoch", time.time()))


def identity(entry: dict[str, Any]) -> tuple[Any, ...]:
    """What makes two entries the same."""
    return entry.get("field_name"), entry.get("value"), entry.get("type")


class LocalDirectMetadata(DirectMetadata):
    """``--metadata local``."""

    TYPE = "local"


class ServiceDirectMetadata(DirectMetadata):
    """``--metadata service``, without requests."""

    TYPE = "service"
