"""What a task sends to the datastore: counted, checked, vetted, and only then stored."""

from __future__ import annotations

import contextlib
import hashlib
import io
import mmap
import re
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import RelayError
from .blobs import BlobCheck
from .budget import Budget
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
PIECE = 1 << 20  # bytes
DOCUMENT = re.compile(r"\d+\.data\.json")
DONE = re.compile(r"\d+\.DONE\.lock")
Metadata = dict[str, Any]


class Intake:
    """One task's way into the datastore; usable from several connections at once.

    ``direct`` tasks write their blobs themselves: these were not checked when they came in.
    """

    def __init__(
        self, flow: str, spool: Path, limits: Limits, artifacts: ArtifactPolicy, *, direct: bool = False
    ) -> None:
        self._flow = flow
        self._spool = spool
        self._limits = limits
        self._artifacts = artifacts
        self._direct = direct
        self.budget = Budget(limits)
        self.done = False
        # NAME -> (SHA-1, encoding) of the artifacts that the task has handed in and that were let through.
        self.accepted: dict[str, tuple[str, str]] = {}
        self._documents = 0
        self._complete = False
        self._trusted: set[str] = set()
        # One file of the task's own at a time: parsed JSON is large, and nothing may follow the last one.
        self._own = threading.Lock()

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
        self.budget.take_pieces(1) if kind is Kind.BLOB else self.budget.take_path(path)
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
        if self._artifacts.mode == "vetted" and kind is Kind.INPUT and DOCUMENT.fullmatch(last(path)):
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
                self.budget.take(len(chunk))
                check.feed(chunk)
                spool.write(chunk)
            check.finish()
            # Never over an existing one: its content has the same hash.
            stored = {"cas_raw": metadata["cas_raw"], "cas_version": CAS_VERSION}
            storage.save_bytes(iter([(path, (spool.rewind(), stored))]), overwrite=False)

    def _receive_own(self, storage: Storage, path: str, chunks: Iterator[bytes], *, overwrite: bool) -> None:
        self._refuse_if_done(path)
        with Spool(self._spool) as spool:
            self._fill(spool, chunks, path)
            source = spool.rewind()
            with self._own:
                self._refuse_if_done(path)
                if DONE.fullmatch(last(path)):
                    if not self._complete:
                        raise RelayError(f"write to {path!r}: the attempt has handed in no results")
                    storage.save_bytes(iter([(path, (source, None))]), overwrite=overwrite)
                    self.done = True
                elif DOCUMENT.fullmatch(last(path)):
                    self.hand_in(storage, path, source.read(MAX_JSON + 1), overwrite=overwrite)
                else:
                    if path.endswith(".json"):
                        raw = source.read(MAX_JSON + 1)
                        source = io.BytesIO(canonical_json(raw, max_bytes=MAX_JSON, max_depth=MAX_JSON_DEPTH))
                    storage.save_bytes(iter([(path, (source, None))]), overwrite=overwrite)

    def _refuse_if_done(self, path: str) -> None:
        if self.done:
            raise RelayError(f"write to {path!r}: the attempt is already marked as done")

    def hand_in(self, storage: Storage, path: str, raw: bytes, *, overwrite: bool) -> None:
        """Store the task's list of artifacts, once every artifact that the scheduler reads is harmless.

        Raises RelayError when one is not.
        """
        self._documents += 1
        if self._documents > self._limits.documents:
            raise RelayError(f"write to {path!r}: handed in more than {self._limits.documents} times")
        document = check_data_json(raw)
        objects, info = document["objects"], document["info"]
        self._vet(storage, objects, info)
        source = io.BytesIO(canonical_json(raw, max_bytes=MAX_JSON, max_depth=MAX_JSON_DEPTH))
        storage.save_bytes(iter([(path, (source, None))]), overwrite=overwrite)
        self.accepted = {name: (key, encoding_of(info, name)) for name, key in objects.items()}
        self._complete = True

    def _vet(self, storage: Storage, objects: dict[str, str], info: dict[str, Any]) -> None:
        def load(name: str, max_size: int) -> bytes:
            with self._unpacked(storage, objects[name], max_size) as content:
                return content[:]

        read_by_scheduler = scheduler_artifacts(objects, load)
        for name in read_by_scheduler:
            vet_scheduler_artifact(name, encoding_of(info, name), load(name, MAX_SCHEDULER_ARTIFACT))
        if self._artifacts.mode == "vetted":
            for name, key in objects.items():
                if key not in self._trusted and name not in read_by_scheduler:
                    with self._unpacked(storage, key, self._limits.artifact) as content:
                        vet_artifact(name, encoding_of(info, name), content, self._artifacts)

    @contextlib.contextmanager
    def _unpacked(self, storage: Storage, key: str, max_size: int) -> Iterator[bytes | mmap.mmap]:
        """An artifact's content; a large one stays on disk."""
        path = f"{self._flow}/data/{key[:2]}/{key}"
        with storage.load_bytes([path]) as loaded, Spool(self._spool) as spool:
            for _path, local, metadata in loaded:
                if local is None:
                    raise RelayError(f"the artifact {key} was named and never saved")
                with Path(local).open("rb") as source:
                    for content in pieces(source, raw=bool((metadata or {}).get("cas_raw"))):
                        if spool.size + len(content) > max_size:
                            raise RelayError(f"the artifact {key} is over {max_size} bytes, too large to vet")
                        spool.write(content)
                with spool.content() as whole:
                    if self._direct and hashlib.sha1(whole, usedforsecurity=False).hexdigest() != key:
                        raise RelayError(f"the artifact {key} has a content that hashes to another key")
                    yield whole
                return
        raise RelayError(f"the artifact {key} cannot be read back")

    def _fill(self, spool: Spool, chunks: Iterator[bytes], path: str) -> None:
        for chunk in chunks:
            self.budget.take(len(chunk))
            if spool.size + len(chunk) > self._limits.file:
                raise RelayError(f"write to {path!r}: over {self._limits.file >> 20} MiB")
            spool.write(chunk)


def pieces(source: BinaryIO, *, raw: bool) -> Iterator[bytes]:
    """The content of a stored blob, a piece at a time. Raises RelayError when it cannot be unpacked."""
    inflate = None if raw else zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    while stored := source.read(PIECE):
        if inflate is None:
            yield stored
            continue
        try:
            while stored and not inflate.eof:
                yield inflate.decompress(stored, PIECE)
                stored = inflate.unconsumed_tail
        except zlib.error as error:
            raise RelayError(f"an artifact cannot be unpacked ({error})") from None


def last(path: str) -> str:
    """The last component."""
    return path.rpartition("/")[2]


def encoding_of(info: dict[str, Any], name: str) -> str:
    """How the artifact was serialised; Metaflow takes a missing one for its oldest pickle."""
    encoding = info.get(name, {}).get("encoding", "gzip+pickle-v2")
    return encoding if isinstance(encoding, str) else ""
