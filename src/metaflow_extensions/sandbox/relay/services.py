"""What the relay is given by the supervisor: storages, metadata, secrets, and what it reports back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Protocol

from .policy import TaskIdentity


@dataclass(frozen=True)
class SecretSource:
    """One secret that a step's @secrets declares."""

    kind: str
    name: str
    options: Mapping[str, Any]
    role: str | None


class Storage(Protocol):
    """The part of Metaflow's DataStoreStorage that the relay calls; paths are below its root."""

    def is_file(self, paths: Sequence[str]) -> list[bool]:
        """For each path, whether it is an object."""

    def info_file(self, path: str) -> tuple[bool, dict[str, Any] | None]:
        """(exists, the object's metadata)."""

    def size_file(self, path: str) -> int | None:
        """Bytes, None where there is no object."""

    def list_content(self, paths: Sequence[str]) -> Iterable[tuple[str, bool]]:
        """(path, whether it is an object), one level down."""

    def save_bytes(
        self,
        path_and_bytes_iter: Iterator[tuple[str, tuple[BinaryIO, dict[str, Any] | None]]],
        overwrite: bool = False,
        len_hint: int = 0,
    ) -> None:
        """Store objects."""

    def load_bytes(
        self, keys: Sequence[str]
    ) -> AbstractContextManager[Iterator[tuple[str, str | None, dict[str, Any] | None]]]:
        """(path, local file or None, metadata) of each key."""


class Files(Protocol):
    """The files of a sandbox, as far as its provider passes them faster than its streams."""

    def put(self, source: Path, target: PurePosixPath) -> None:
        """Copy a file in."""

    def read(self, source: PurePosixPath) -> Iterator[bytes]:
        """A file's content, which need not end. Raises FileNotFoundError; SandboxError also on the way."""


class Services(Protocol):
    """The flow's real providers, as far as a task may use them."""

    def storage(self, store: str) -> Storage:
        """The storage named TYPE@ROOT."""

    def include_file(self, kind: str, url: str) -> AbstractContextManager[Path | None]:
        """A local copy of an included file of the flow, None where there is none."""

    def register_task(self, task: TaskIdentity) -> None:
        """Make the task known to the metadata provider, where its id is not a number."""

    def register_metadata(
        self, task: TaskIdentity, items: Sequence[tuple[str, str | None, str, list[str]]]
    ) -> None:
        """Add (field, value, type, tags) to the task."""

    def register_artifacts(self, task: TaskIdentity, items: Sequence[Mapping[str, str | None]]) -> None:
        """Add artifacts given as the fields of Metaflow's DataArtifact."""

    def start_heartbeat(self, task: TaskIdentity) -> None:
        """Let the task's heart beat until it is stopped."""

    def stop_heartbeat(self, task: TaskIdentity) -> None:
        """Stop it; idempotent."""

    def metadata_object(
        self, kind: str, sub_kind: str, filters: dict[str, Any], attempt: int | None, path: Sequence[str]
    ) -> Any:
        """What the metadata provider knows, as JSON-able values."""

    def secret(self, source: SecretSource) -> dict[str, str]:
        """One secret's environment variables."""

    def s3_credentials(self, task: TaskIdentity) -> dict[str, str]:
        """Credentials for the flow's datastore: AccessKeyId, SecretAccessKey, SessionToken, Expiration."""


class Witness(Protocol):
    """Told what a guest says and what it was refused."""

    def starting(self) -> None:
        """The user's code will run once this returns."""

    def started(self) -> None:
        """The user's code runs."""

    def ended(self, signal: int | None, peak_memory: float | None, cpu_time: float | None) -> None:
        """The step's process ended; MiB and seconds, as the guest says."""

    def kept(self) -> None:
        """The step has failed, and its guest stays until it is sent a signal."""

    def finished(self) -> None:
        """The task marked its results as complete."""

    def refused(self, reason: str) -> None:
        """A request was refused by the policy."""

    def failed(self, what: str, error: BaseException) -> None:
        """A request was allowed and could not be carried out."""


@dataclass(frozen=True)
class Limits:
    """How much one task may send, in bytes; ``artifact`` is after inflating.

    ``pieces`` is the number of objects and metadata records, ``documents`` how often the task may hand
    in its list of artifacts, which Metaflow does once an attempt; each time they are vetted.
    """

    artifact: int = 8 << 30
    task: int = 64 << 30
    file: int = 64 << 20
    pieces: int = 250_000
    documents: int = 8
    connections: int = 64
