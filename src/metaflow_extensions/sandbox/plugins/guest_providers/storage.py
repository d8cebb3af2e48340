"""The datastore inside a sandbox, for each of Metaflow's types: every call goes to the relay."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from metaflow.datastore.datastore_storage import CloseAfterUse, DataStoreStorage
from metaflow.metaflow_config import CARD_SUFFIX

from ...guest.ahead import LISTING, ReadAhead
from ...guest.client import Content
from ...guest.large_files import size_of
from ...relay.drafts import DONE
from .relay import client, metaflow_errors, questions

ahead = ReadAhead(client.load_all)

# What Metaflow writes of an attempt, which it reads of all inputs at once.
DOCUMENT = re.compile(r".*/\d+\.(data\.json|attempt\.json|DONE\.lock)")
DOCUMENTS_AT_ONCE = 256  # the requests for them fit a socket's buffer
LOCAL_CARD_ROOT = "METAFLOW_SANDBOX_CARD_ROOT"
SLOW = 0.002  # seconds for a question, from which on a small object is sooner sent twice than asked for
SMALL = 64 * 1024  # bytes, packed
MEASURED = 3  # questions


class Questions(threading.local):
    """What is known of this thread's: the fastest so far, and what is being saved unasked."""

    count = 0
    fastest = float("inf")  # seconds
    unasked: set[str] | None = None

    def are_slow(self) -> bool:
        """Whether an answer takes longer than a small object that is there already."""
        return self.count >= MEASURED and self.fastest >= SLOW


asked = Questions()


class RelayStorage(DataStoreStorage):
    """A storage at ``datastore_root`` of the launcher, named to the relay as TYPE@ROOT."""

    @property
    def _store(self) -> str:
        return f"{self.TYPE}@{self.datastore_root}"

    @classmethod
    def get_datastore_root_from_config(cls, echo: Any, create_on_absent: bool = True) -> str | None:
        """Nothing is configured inside: the root comes with the command line."""
        root: str | None = cls.datastore_root
        return root

    def is_file(self, paths: list[str]) -> list[bool]:
        """For each path, whether it is an object."""
        if asked.unasked is not None and asked.are_slow():
            # While it saves, Metaflow asks for every blob, and only to save none twice.
            asked.unasked.update(paths)
            return [False] * len(paths)
        return self._ask(paths)

    def _ask(self, paths: list[str]) -> list[bool]:
        begin = time.perf_counter()
        with metaflow_errors():
            exists = list(questions.call("is_file", store=self._store, paths=list(paths))["exists"])
        asked.count += 1
        asked.fastest = min(asked.fastest, time.perf_counter() - begin)
        return exists

    def info_file(self, path: str) -> tuple[bool, dict[str, Any] | None]:
        """(exists, the object's metadata)."""
        with metaflow_errors():
            answer = client.call("info_file", store=self._store, path=path)
        return answer["exists"], answer["meta"]

    def size_file(self, path: str) -> int | None:
        """Bytes, None where there is no object."""
        with metaflow_errors():
            size: int | None = client.call("size_file", store=self._store, path=path)["size"]
        return size

    def list_content(self, paths: list[str]) -> list[Any]:
        """(path, whether it is an object), one level down."""
        with metaflow_errors():
            entries = client.call("list_content", store=self._store, paths=list(paths))["entries"]
        return [self.list_content_result(path=path, is_file=is_file) for path, is_file in entries]

    def save_bytes(
        self, path_and_bytes_iter: Iterable[Any], overwrite: bool = False, len_hint: int = 0
    ) -> None:
        """Store objects."""

        def items() -> Iterator[tuple[str, BinaryIO, dict[str, Any] | None]]:
            for path, content in path_and_bytes_iter:
                source, metadata = content if isinstance(content, tuple) else (content, None)
                # It marks an attempt whose records are all there, too.
                if path.endswith(DONE):
                    client.settle()
                if path in unasked and size_of(source) > SMALL and self._ask([path])[0]:
                    continue
                yield path, source, metadata

        unasked: set[str] = set()
        asked.unasked = unasked
        try:
            with metaflow_errors():
                client.save(self._store, items(), overwrite)
        finally:
            asked.unasked = None

    def load_bytes(self, paths: list[str]) -> Any:
        """(path, local copy, metadata) of each key; the copies last as long as the context."""
        copies = contextlib.ExitStack()

        def load() -> Iterator[tuple[str, str | None, dict[str, Any] | None]]:
            for path in paths:
                with metaflow_errors():
                    found, metadata, chunks, file = self._load(path)
                    if not found:
                        yield path, None, None
                        continue
                    if file:
                        copies.callback(os.unlink, file)
                    else:
                        copy, file = open_copy()
                        copies.enter_context(copy)
                        copy.writelines(chunks)
                        copy.flush()
                yield path, file, metadata

        of_tasks = len(paths) > 1 and all(map(DOCUMENT.fullmatch, paths))
        return CloseAfterUse(self._load_documents(paths, copies) if of_tasks else load(), closer=copies)

    def _load_documents(
        self, paths: list[str], copies: contextlib.ExitStack
    ) -> Iterator[tuple[str, str | None, dict[str, Any] | None]]:
        """Many in a round trip: a join asks for eighteen of each input."""
        # No open file for each: there may be more than a process may have.
        place = copies.enter_context(tempfile.TemporaryDirectory(prefix="documents-"))
        listings = []
        for start in range(0, len(paths), DOCUMENTS_AT_ONCE):
            asked = paths[start : start + DOCUMENTS_AT_ONCE]
            with metaflow_errors():
                documents = client.load_all(self._store, asked, len(asked))
            for number, (path, (found, metadata, content)) in enumerate(zip(asked, documents), start):  # noqa: B905
                if found:
                    Path(place, str(number)).write_bytes(content)
                    listings += [content] if LISTING.fullmatch(path) else []
                    ahead.learn(*listings)
                yield path, f"{place}/{number}" if found else None, metadata

    def _load(self, path: str) -> Content:
        had = ahead.take(self._store, path)
        if had is not None:
            found, metadata, content = had
            return Content(found, metadata, iter([content]), None)
        loaded = client.load(self._store, path)
        if LISTING.fullmatch(path) and not loaded.file:
            listing = b"".join(loaded.chunks)
            ahead.learn(listing)
            return loaded._replace(chunks=iter([listing]))
        return loaded


class LocalRelayStorage(RelayStorage):
    """``--datastore local``."""

    TYPE = "local"

    @property
    def _store(self) -> str:
        # Metaflow takes the cards' root to be below the working directory, which is the guest's own here.
        if self.datastore_root.endswith(f"/{CARD_SUFFIX}"):
            return f"{self.TYPE}@{os.environ[LOCAL_CARD_ROOT]}"
        return super()._store


class SpinRelayStorage(LocalRelayStorage):
    """The datastore of ``spin``."""

    TYPE = "spin"


class S3RelayStorage(RelayStorage):
    """``--datastore s3``, without boto3."""

    TYPE = "s3"


class AzureRelayStorage(RelayStorage):
    """``--datastore azure``, without its SDK."""

    TYPE = "azure"


class GSRelayStorage(RelayStorage):
    """``--datastore gs``, without its SDK."""

    TYPE = "gs"


def open_copy() -> tuple[BinaryIO, str]:
    """A file that goes when it is closed, and a path to open it again."""
    if not hasattr(os, "memfd_create"):
        named = tempfile.NamedTemporaryFile("wb", prefix="artifact-")  # noqa: SIM115 -- the caller's context
        return cast("BinaryIO", named), named.name
    # In memory and without a name: the sandbox's disk may be smaller than an artifact.
    copy = os.fdopen(os.memfd_create("artifact"), "wb")
    return cast("BinaryIO", copy), f"/proc/self/fd/{copy.fileno()}"
