"""The flow's real datastore, metadata and secrets, built from Metaflow: the relay's services.

The only module of the supervisor that imports Metaflow; it is imported on a thread of its own,
while the first sandbox boots.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, BinaryIO

from metaflow.event_logger import NullEventLogger
from metaflow.metadata_provider import DataArtifact, MetadataProvider, MetaDatum
from metaflow.metaflow_environment import MetaflowEnvironment
from metaflow.monitor import NullMonitor
from metaflow.plugins import DATACLIENTS, DATASTORES, METADATA_PROVIDERS, SECRETS_PROVIDERS
from metaflow.plugins.datastores.local_storage import LocalStorage

from ..errors import RelayError
from ..relay.policy import SHA1, TaskIdentity
from ..relay.services import SecretSource, Storage
from .heartbeat import Heartbeats
from .protocol import RunSettings

if TYPE_CHECKING:
    from .s3_access import TaskCredentials

SAVING = threading.Lock()


class Providers:
    """Relay services of one run."""

    def __init__(self, settings: RunSettings) -> None:
        self._settings = settings
        # Metaflow reads the script's name from here.
        sys.argv[0] = settings.script
        LocalStorage.datastore_root = settings.local_root
        kind, _, root = settings.datastore.partition("@")
        by_type(DATASTORES, kind).datastore_root = root
        self._metadata_class = by_type(METADATA_PROVIDERS, settings.metadata)
        self._heartbeats: Heartbeats | None = None
        self._s3: TaskCredentials | None = None
        self._storages: dict[str, Storage] = {}
        self._lock = threading.Lock()
        flow = SimpleNamespace(name=settings.flow)
        self._metadata: MetadataProvider = self._metadata_class(
            MetaflowEnvironment(flow), flow, NullEventLogger(), NullMonitor(flow, None)
        )
        self._metadata.add_sticky_tags(tags=settings.tags)

    def storage(self, store: str) -> Storage:
        """The storage named TYPE@ROOT."""
        with self._lock:
            if store not in self._storages:
                kind, _, root = store.partition("@")
                storage_class = by_type(DATASTORES, kind)
                if issubclass(storage_class, LocalStorage):
                    storage_class = type("Streaming", (StreamingSaves, storage_class), {})
                self._storages[store] = storage_class(root)
            return self._storages[store]

    @contextmanager
    def include_file(self, kind: str, url: str) -> Iterator[Path | None]:
        """A local copy of an included file. Raises RelayError for one that is not the flow's."""
        client_class = by_type(DATACLIENTS, kind)
        root = client_class.get_root_from_config(lambda *_args, **_kwargs: None, create_on_absent=False)
        prefix = f"{root if '://' in root else f'{kind}://{root}'}/{self._settings.flow}/"
        if not url.startswith(prefix) or not SHA1.fullmatch(url[len(prefix) :]):
            raise RelayError(f"read of the included file {url[:200]!r}: not one of this flow's uploads")
        with client_class() as client:
            found = client.get(url, return_missing=True)
            yield Path(found.path) if found.exists else None

    def register_task(self, task: TaskIdentity) -> None:
        """Register a task whose id the metadata provider has not made."""
        self._metadata.register_task_id(task.run, task.step, task.task, task.attempt)

    def register_metadata(
        self, task: TaskIdentity, items: Sequence[tuple[str, str | None, str, list[str]]]
    ) -> None:
        """Add (field, value, type, tags) to the task."""
        self._metadata.register_metadata(task.run, task.step, task.task, [MetaDatum(*item) for item in items])

    def register_artifacts(self, task: TaskIdentity, items: Sequence[Mapping[str, str | None]]) -> None:
        """Add artifacts given as the fields of Metaflow's DataArtifact."""
        self._metadata.register_data_artifacts(
            task.run, task.step, task.task, task.attempt, [DataArtifact(**item) for item in items]
        )

    def start_heartbeat(self, task: TaskIdentity) -> None:
        """Let the task's heart beat, where the provider is a service."""
        template = getattr(self._metadata, "url_task_template", None)
        if template is None:
            return
        with self._lock:
            if self._heartbeats is None:
                self._heartbeats = Heartbeats(template)
        self._heartbeats.start(task)

    def stop_heartbeat(self, task: TaskIdentity) -> None:
        """Stop it; idempotent."""
        if self._heartbeats is not None:
            self._heartbeats.stop(task)

    def metadata_object(
        self, kind: str, sub_kind: str, filters: dict[str, Any], attempt: int | None, path: Sequence[str]
    ) -> Any:
        """What the metadata provider knows."""
        return self._metadata_class.get_object(kind, sub_kind, filters, attempt, *path)

    def secret(self, source: SecretSource) -> dict[str, str]:
        """One secret's environment variables, fetched with the launcher's credentials."""
        provider = by_type(SECRETS_PROVIDERS, source.kind)()
        return dict(provider.get_secret_as_dict(source.name, options=dict(source.options), role=source.role))

    def s3_credentials(self, task: TaskIdentity) -> dict[str, str]:
        """Credentials for the flow's datastore, such as the task may have."""
        with self._lock:
            if self._s3 is None:
                # boto3 takes as long to import as Metaflow: only for who needs it.
                from .s3_access import S3Access, TaskCredentials

                self._s3 = TaskCredentials(S3Access(self._settings.datastore.partition("@")[2]))
        return self._s3.of(task)


class StreamingSaves:
    """A local storage whose saves are copied in pieces; Metaflow's own reads an object whole."""

    def save_bytes(
        self,
        path_and_bytes_iter: Iterator[tuple[str, tuple[BinaryIO, dict[str, Any] | None]]],
        overwrite: bool = False,
        len_hint: int = 0,  # noqa: ARG002 -- Metaflow's signature
    ) -> None:
        """Store objects, each atomically."""
        for path, (source, metadata) in path_and_bytes_iter:
            target = Path(self.full_uri(path))  # type: ignore[attr-defined]
            if not overwrite and target.exists():
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as copy:
                try:
                    shutil.copyfileobj(source, copy, 1 << 20)
                    copy.close()
                    # A file and its metadata are two: of several writers at once, one writes both.
                    with SAVING:
                        if overwrite or not target.exists():
                            if metadata:
                                text = json.dumps(metadata).encode()
                                self._atomic_write(f"{target}_meta", text)  # type: ignore[attr-defined]
                            Path(copy.name).rename(target)
                        else:
                            Path(copy.name).unlink()
                except BaseException as error:
                    # On a full disk closing fails, too, and says less.
                    with suppress(OSError):
                        copy.close()
                    Path(copy.name).unlink()
                    if isinstance(error, OSError):
                        raise OSError(error.errno, error.strerror, str(target)) from error
                    raise


def by_type(classes: Sequence[Any], kind: str) -> Any:
    """The plugin class with that TYPE."""
    for candidate in classes:
        if kind == candidate.TYPE:
            return candidate
    raise RelayError(f"no plugin of type {kind!r} is installed: {sorted(c.TYPE for c in classes)}")
