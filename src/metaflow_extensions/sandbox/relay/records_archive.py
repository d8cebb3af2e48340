"""The metadata that a task in direct mode has written, from an archive that its sandbox made.

Nothing is unpacked: members are read one by one, and only plain files at the task's own place count.
"""

from __future__ import annotations

import json
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from ..errors import RelayError
from .arguments import optional_text, text, texts
from .policy import TaskIdentity
from .records import Entry

MAX_MEMBERS = 50_000
MAX_RECORD = 1 << 20  # bytes of one record
MAX_INFLATED = 128 << 20  # bytes of the archive
NAME = re.compile(r"sysmeta_.{1,200}\.json|(\d+)_artifact_.{1,200}\.json")


@dataclass(frozen=True)
class Records:
    """Metadata entries by the name of their file, oldest first, and artifacts as DataArtifact's fields.

    ``refused`` says what was left out.
    """

    entries: Mapping[str, Entry]
    artifacts: list[dict[str, str | None]]
    refused: list[str]


def read_records(archive: Path, task: TaskIdentity) -> Records:
    """What a task has written about itself. Raises RelayError for what is no archive, or too large."""
    entries: list[tuple[float, str, Entry]] = []
    artifacts: list[dict[str, str | None]] = []
    refused: list[str] = []
    for name, content in members(archive, task, refused):
        try:
            record = json_object(content)
            if name.startswith("sysmeta_"):
                entries.append((moment(record), name, entry_of(record)))
            elif name.startswith(f"{task.attempt}_"):
                artifacts.append(artifact_of(record))
        except (ValueError, RecursionError, RelayError) as error:  # noqa: PERF203 -- the others count
            refused.append(f"the record {name[:200]!r}: {str(error)[:200]}")
    entries.sort(key=lambda each: each[:2])
    return Records({name: entry for _, name, entry in entries}, artifacts, refused)


def members(archive: Path, task: TaskIdentity, refused: list[str]) -> Iterator[tuple[str, bytes]]:
    """(file name, content) of each record of the task; others are said in ``refused``."""
    place = f"{task.flow}/{task.pathspec}/_meta"
    try:
        with (
            archive.open("rb") as packed,
            tarfile.open(fileobj=cast("BinaryIO", Inflated(packed)), mode="r|") as tar,
        ):
            for number, member in enumerate(tar):
                if number >= MAX_MEMBERS:
                    raise RelayError(f"the task's records are over {MAX_MEMBERS}")
                directory, _, name = member.name.rpartition("/")
                if not member.isreg() or directory != place or not NAME.fullmatch(name):
                    refused.append(f"the record {member.name[:200]!r}: not this task's")
                elif member.size > MAX_RECORD:
                    refused.append(f"the record {name[:200]!r}: over {MAX_RECORD >> 20} MiB")
                else:
                    source = tar.extractfile(member)
                    yield name, source.read() if source else b""
    except (tarfile.TarError, zlib.error, EOFError, ValueError, RecursionError) as error:
        raise RelayError(f"the task's records cannot be read: {str(error)[:200]}") from None


class Inflated:
    """The content of a gzip file, as far as a task's records may be large."""

    def __init__(self, packed: Any) -> None:
        self._packed = packed
        self._inflate = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        self._size = 0

    def read(self, size: int) -> bytes:
        """At most so many bytes more. Raises RelayError over the limit."""
        content = b""
        while len(content) < size and not self._inflate.eof:
            stored = self._inflate.unconsumed_tail or self._packed.read(1 << 16)
            if not stored:
                break
            content += self._inflate.decompress(stored, size - len(content))
        self._size += len(content)
        if self._size > MAX_INFLATED:
            raise RelayError(f"the task's records are over {MAX_INFLATED >> 20} MiB once inflated")
        return content


def json_object(content: bytes) -> dict[str, Any]:
    """A record's fields. Raises RelayError, ValueError or RecursionError for anything else."""
    record = json.loads(content)
    if not isinstance(record, dict):
        raise RelayError("no object")
    return record


def moment(record: Mapping[str, Any]) -> float:
    """When it was written, in milliseconds, as it says; 0 when it does not."""
    value = record.get("ts_epoch")
    return float(value) if isinstance(value, int) and 0 <= value < 1 << 62 else 0.0


def entry_of(record: Mapping[str, Any]) -> Entry:
    """(field, value, type, tags). Raises RelayError when one is not what it has to be."""
    value = record.get("value")
    known = None if value is None else text({"value": str(value)}, "value")
    return text(record, "field_name"), known, text(record, "type"), texts(record, "tags")


def artifact_of(record: Mapping[str, Any]) -> dict[str, str | None]:
    """The fields of Metaflow's DataArtifact. Raises RelayError when one is not what it has to be."""
    location = optional_text(record, "location") or ""
    if not location.startswith(":root:"):
        raise RelayError("it is elsewhere than in the datastore")
    return {
        "name": text(record, "name"),
        "ds_type": text(record, "ds_type"),
        "ds_root": location[len(":root:") :],
        "url": None,
        "type": text(record, "content_type"),
        "sha": text(record, "sha"),
    }
