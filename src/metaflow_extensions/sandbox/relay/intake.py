"""What a task sends to the datastore: counted, checked, vetted, and only then stored."""

from __future__ import annotations

import io
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import RelayError
from .blobs import BlobCheck
from .policy import Kind
from .services import Limits, Storage
from .spool import Spool
from .vetting import (
    MAX_SCHEDULER_ARTIFACT,
    ArtifactPolicy,
    canonical_json,
    check_data_json,
    scheduler_artifacts,
    vet_artifact,
    vet_scheduler_artifact,
)

MAX_JSON = 16 << 20  # bytes
MAX_JSON_DEPTH = 32
CAS_VERSION = 1
Metadata = dict[str, Any]


class Intake:
    """One task's way into the datastore; usable from several connections at once."""

    def __init__(self, flow: str, spool: Path, limits: Limits, artifacts: ArtifactPolicy) -> None:
        self._flow = flow
        self._spool = spool
        self._limits = limits
        self._artifacts = artifacts
        self._received = 0
        self._done = False
        self._trusted: set[str] = set()
        self._lock = threading.Lock()

    def receive(
        self,
        storage: Storage,
        kind: Kind,
        path: str,
        chunks: Iterator[bytes],
        metadata: Metadata | None,
        *,
        overwrite: bool,
    ) -> None:
        """Store one object. Raises RelayError when it is refused."""
        if kind is Kind.BLOB:
            self._receive_blob(storage, path, chunks, metadata)
        elif metadata:
            raise RelayError(f"write to {path!r}: only blobs carry metadata")
        elif kind is Kind.OWN:
            self._receive_own(storage, path, chunks, overwrite=overwrite)
        else:
            with Spool(self._spool) as spool:
                self._fill(spool, chunks, path)
                storage.save_bytes(iter([(path, (spool.rewind(), None))]), overwrite=overwrite)

    def note_input(self, kind: Kind, path: str, source: BinaryIO) -> None:
        """Remember which blobs the task's inputs name: they were accepted when they were written."""
        if self._artifacts.mode == "vetted" and kind is Kind.INPUT and path.endswith(".data.json"):
            document = check_data_json(source.read(MAX_JSON + 1))
            self._trusted.update(document["objects"].values())
            source.seek(0)

    def _receive_blob(
        self, storage: Storage, path: str, chunks: Iterator[bytes], metadata: Metadata | None
    ) -> None:
        if (
            not metadata
            or set(metadata) != {"cas_raw", "cas_version"}
            or not isinstance(metadata["cas_raw"], bool)
            or metadata["cas_version"] != CAS_VERSION
        ):
            raise RelayError(f"write to {path!r}: not the metadata of a content-addressed blob")
        check = BlobCheck(path.rpartition("/")[2], metadata["cas_raw"], self._limits.artifact)
        with Spool(self._spool) as spool:
            for chunk in chunks:
                self._count(len(chunk))
                check.feed(chunk)
                spool.write(chunk)
            check.finish()
            # Never over an existing one: its content has the same hash.
            storage.save_bytes(iter([(path, (spool.rewind(), metadata))]), overwrite=False)

    def _receive_own(self, storage: Storage, path: str, chunks: Iterator[bytes], *, overwrite: bool) -> None:
        with self._lock:
            if self._done:
                raise RelayError(f"write to {path!r}: the attempt is already marked as done")
        with Spool(self._spool) as spool:
            self._fill(spool, chunks, path)
            source = spool.rewind()
            if path.endswith(".data.json"):
                source = io.BytesIO(self._vetted_document(storage, source.read(MAX_JSON + 1)))
            elif path.endswith(".json"):
                raw = source.read(MAX_JSON + 1)
                source = io.BytesIO(canonical_json(raw, max_bytes=MAX_JSON, max_depth=MAX_JSON_DEPTH))
            storage.save_bytes(iter([(path, (source, None))]), overwrite=overwrite)
        if path.endswith(".DONE.lock"):
            with self._lock:
                self._done = True

    def _vetted_document(self, storage: Storage, raw: bytes) -> bytes:
        """The task's list of artifacts, once every artifact that the scheduler reads is harmless."""
        document = check_data_json(raw)
        objects, info = document["objects"], document["info"]
        read_by_scheduler = scheduler_artifacts(
            objects, lambda name, size: self._load(storage, objects[name], size)
        )
        for name in read_by_scheduler:
            content = self._load(storage, objects[name], MAX_SCHEDULER_ARTIFACT)
            vet_scheduler_artifact(name, encoding_of(info, name), content)
        if self._artifacts.mode == "vetted":
            for name, key in objects.items():
                if key not in self._trusted and name not in read_by_scheduler:
                    content = self._load(storage, key, self._limits.artifact)
                    vet_artifact(name, encoding_of(info, name), content, self._artifacts)
        return canonical_json(raw, max_bytes=MAX_JSON, max_depth=MAX_JSON_DEPTH)

    def _load(self, storage: Storage, key: str, max_size: int) -> bytes:
        path = f"{self._flow}/data/{key[:2]}/{key}"
        with storage.load_bytes([path]) as loaded:
            for _path, local, metadata in loaded:
                if local is None:
                    raise RelayError(f"the artifact {key} was named and never saved")
                with Path(local).open("rb") as source:
                    content = source.read(max_size + 1)
                if not (metadata or {}).get("cas_raw"):
                    inflate = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
                    content = inflate.decompress(content, max_size + 1)
                if len(content) > max_size:
                    raise RelayError(f"the artifact {key} is over {max_size} bytes, too large to vet")
                return content
        raise RelayError(f"the artifact {key} cannot be read back")

    def _fill(self, spool: Spool, chunks: Iterator[bytes], path: str) -> None:
        for chunk in chunks:
            self._count(len(chunk))
            if spool.size + len(chunk) > self._limits.file:
                raise RelayError(f"write to {path!r}: over {self._limits.file >> 20} MiB")
            spool.write(chunk)

    def _count(self, size: int) -> None:
        with self._lock:
            self._received += size
            if self._received > self._limits.task:
                raise RelayError(
                    f"the task has sent over {self._limits.task >> 20} MiB: "
                    "METAFLOW_SANDBOX_MAX_UPLOAD sets the limit, in MiB"
                )


def encoding_of(info: dict[str, Any], name: str) -> str:
    """How the artifact was serialised; Metaflow takes a missing one for its oldest pickle."""
    encoding = info.get(name, {}).get("encoding", "gzip+pickle-v2")
    return encoding if isinstance(encoding, str) else ""
