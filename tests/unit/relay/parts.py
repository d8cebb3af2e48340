"""Real parts for tests of the relay: a storage on disk, services that remember, a relay on a socket pair."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import pickle
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, cast

from metaflow_extensions.sandbox.guest.frames import (
    ChannelClosed,
    encode_frame,
    read_frame,
    read_stream,
    write_stream,
)
from metaflow_extensions.sandbox.relay.intake import Intake
from metaflow_extensions.sandbox.relay.policy import Policy, TaskIdentity
from metaflow_extensions.sandbox.relay.server import TaskRelay
from metaflow_extensions.sandbox.relay.services import Limits, SecretSource
from metaflow_extensions.sandbox.relay.vetting import ArtifactPolicy

IDENTITY = TaskIdentity("Flow", "12", "train", "7", 1)
STORE = "local@/data"
OTHER_STORE = "local@/older"
CARDS = "local@/data/mf.cards"
OWN = "Flow/12/train/7"
INPUT = "Flow/12/start/3"
WAIT = 10.0  # seconds, for what takes none


class DirectoryStorage:
    """A datastore of files below a directory, with Metaflow's calls."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.saved: list[str] = []

    def is_file(self, paths: Sequence[str]) -> list[bool]:
        return [(self.root / path).is_file() for path in paths]

    def info_file(self, path: str) -> tuple[bool, dict[str, Any] | None]:
        return (self.root / path).is_file(), self._metadata(path)

    def size_file(self, path: str) -> int | None:
        file = self.root / path
        return file.stat().st_size if file.is_file() else None

    def list_content(self, paths: Sequence[str]) -> list[tuple[str, bool]]:
        return [
            (f"{path}/{child.name}", child.is_file())
            for path in paths
            if (self.root / path).is_dir()
            for child in sorted((self.root / path).iterdir())
        ]

    def save_bytes(
        self,
        path_and_bytes_iter: Iterator[tuple[str, tuple[BinaryIO, dict[str, Any] | None]]],
        overwrite: bool = False,
        len_hint: int = 0,
    ) -> None:
        for path, (source, metadata) in path_and_bytes_iter:
            self.saved.append(path)
            file = self.root / path
            if file.exists() and not overwrite:
                continue
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(source.read())
            if metadata is not None:
                Path(f"{file}_meta").write_text(json.dumps(metadata))

    @contextmanager
    def load_bytes(
        self, keys: Sequence[str]
    ) -> Iterator[Iterator[tuple[str, str | None, dict[str, Any] | None]]]:
        yield iter(
            [
                (key, str(self.root / key), self._metadata(key))
                if (self.root / key).is_file()
                else (key, None, None)
                for key in keys
            ]
        )

    def _metadata(self, path: str) -> dict[str, Any] | None:
        metadata = Path(f"{self.root / path}_meta")
        return cast("dict[str, Any]", json.loads(metadata.read_text())) if metadata.exists() else None


class RememberingServices:
    """Services that keep what they are told; ``breaking`` makes every storage raise that error."""

    def __init__(self, root: Path) -> None:
        self.storages = {
            STORE: DirectoryStorage(root / "data"),
            OTHER_STORE: DirectoryStorage(root / "older"),
            CARDS: DirectoryStorage(root / "data" / "mf.cards"),
        }
        self.calls: list[tuple[Any, ...]] = []
        self.objects: Any = {"found": True}
        self.breaking: BaseException | None = None
        self.included = root / "included"

    def storage(self, store: str) -> DirectoryStorage:
        if self.breaking is not None:
            raise self.breaking
        return self.storages[store]

    @contextmanager
    def include_file(self, kind: str, url: str) -> Iterator[Path | None]:
        self.calls.append(("include", kind, url))
        yield self.included if self.included.exists() else None

    def register_task(self, task: TaskIdentity) -> None:
        self.calls.append(("task", task))

    def register_metadata(
        self, task: TaskIdentity, items: Sequence[tuple[str, str | None, str, list[str]]]
    ) -> None:
        self.calls.append(("metadata", task, list(items)))

    def register_artifacts(self, task: TaskIdentity, items: Sequence[Mapping[str, str | None]]) -> None:
        self.calls.append(("artifacts", task, list(items)))

    def start_heartbeat(self, task: TaskIdentity) -> None:
        self.calls.append(("beat", task))

    def stop_heartbeat(self, task: TaskIdentity) -> None:
        self.calls.append(("rest", task))

    def metadata_object(
        self, kind: str, sub_kind: str, filters: dict[str, Any], attempt: int | None, path: Sequence[str]
    ) -> Any:
        self.calls.append(("object", kind, sub_kind, filters, attempt, list(path)))
        return self.objects

    def secret(self, source: SecretSource) -> dict[str, str]:
        self.calls.append(("secret", source))
        return {"PASSWORD": "hunter2"}

    def s3_credentials(self, task: TaskIdentity) -> dict[str, str]:
        self.calls.append(("s3", task))
        return {"AccessKeyId": "key", "SecretAccessKey": "hunter2"}


class Observer:
    """A witness that remembers."""

    def __init__(self) -> None:
        self.refusals: list[str] = []
        self.failures: list[tuple[str, BaseException]] = []
        self.said: list[Any] = []

    def starting(self) -> None:
        self.said.append("starting")

    def started(self) -> None:
        self.said.append("started")

    def ended(self, signal: int | None, peak_memory: float | None, cpu_time: float | None) -> None:
        self.said.append(("ended", signal, peak_memory, cpu_time))

    def kept(self) -> None:
        self.said.append("kept")

    def finished(self) -> None:
        self.said.append("finished")

    def refused(self, reason: str) -> None:
        self.refusals.append(reason)

    def failed(self, what: str, error: BaseException) -> None:
        self.failures.append((what, error))


class Guest:
    """One connection of a guest that speaks raw frames."""

    def __init__(self, relay: TaskRelay) -> None:
        self.socket, other = socket.socketpair()
        self.socket.settimeout(WAIT)
        self.reader = cast("BinaryIO", self.socket.makefile("rb"))
        self.writer = cast("BinaryIO", self.socket.makefile("wb"))
        relay.accept(other)

    def ask(self, **header: Any) -> dict[str, Any]:
        """Send a request and return its answer."""
        self.writer.write(encode_frame(header))
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """Return the next answer's header."""
        self.writer.flush()
        return read_frame(self.reader)[0]

    def save(self, path: Any, content: bytes, meta: Any = None, **more: Any) -> dict[str, Any]:
        """Save one object."""
        header = {"verb": "save", "store": STORE, "path": path, "meta": meta, **more}
        self.writer.write(encode_frame(header))
        write_stream(self.writer, io.BytesIO(content))
        return self.answer()

    def load(self, path: str, store: str = STORE) -> bytes | None:
        """Return an object's bytes, None where there is none."""
        if not self.ask(verb="load", store=store, path=path)["found"]:
            return None
        return b"".join(read_stream(self.reader))

    def raw(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.writer.write(data)
        self.writer.flush()

    def is_cut(self) -> bool:
        """Whether the relay has closed the connection."""
        try:
            self.answer()
        except (ChannelClosed, ConnectionError):
            return True
        return False

    def close(self) -> None:
        """Hang up."""
        for part in (self.reader, self.writer, self.socket):
            try:
                part.close()
            except OSError:
                continue

    def __enter__(self) -> Guest:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: object, __: TracebackType | None) -> None:
        self.close()


class Bench:
    """A relay with everything around it."""

    def __init__(
        self,
        place: Path,
        *,
        limits: Limits | None = None,
        artifacts: ArtifactPolicy | None = None,
        secrets: Sequence[SecretSource] = (),
        facts: Mapping[str, str] | None = None,
    ) -> None:
        self.services = RememberingServices(place)
        self.storage = self.services.storages[STORE]
        self.observer = Observer()
        self.spool = place / "spool"
        self.spool.mkdir()
        self.limits = limits or Limits()
        self.intake = Intake("Flow", self.spool, self.limits, artifacts or ArtifactPolicy())
        self.relay = TaskRelay(
            Policy(IDENTITY, frozenset({"12/start/3"})),
            lambda: self.services,
            self.observer,
            self.intake,
            STORE,
            {STORE: True, CARDS: True, OTHER_STORE: False},
            secrets,
            facts or {},
            self.limits,
        )

    def guest(self) -> Guest:
        """Open a connection."""
        return Guest(self.relay)

    def put(self, path: str, content: bytes, metadata: dict[str, Any] | None = None) -> None:
        """Place an object in the storage as the launcher or another task would have."""
        self.storage.save_bytes(iter([(path, (io.BytesIO(content), metadata))]), overwrite=True)
        self.storage.saved.clear()

    def stored(self, path: str) -> bytes | None:
        """Return an object of the storage."""
        file = self.storage.root / path
        return file.read_bytes() if file.exists() else None


@contextmanager
def short_directory() -> Iterator[Path]:
    """A directory whose path leaves room for a socket in it."""
    with tempfile.TemporaryDirectory(prefix="sandbox-", dir="/tmp") as place:
        yield Path(place)


def sha1(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


def blob_path(content: bytes) -> str:
    key = sha1(content)
    return f"Flow/data/{key[:2]}/{key}"


RAW = {"cas_raw": True, "cas_version": 1}
PACKED = {"cas_raw": False, "cas_version": 1}


def save_blob(guest: Guest, content: bytes) -> str:
    """Save an honest blob and return its key."""
    assert guest.save(blob_path(content), gzip.compress(content), PACKED) == {}
    return sha1(content)


def document(objects: Mapping[str, str], **info: Any) -> bytes:
    """Metaflow's list of a task's artifacts."""
    return json.dumps(
        {
            "datastore": "local",
            "version": "1.0",
            "attempt": 1,
            "python_version": "3",
            "objects": dict(objects),
            "info": {
                name: {"size": 1, "type": "x", "encoding": info.get(name, "gzip+pickle-v4")}
                for name in objects
            },
        }
    ).encode()


class Bomb:
    """Unpickled, it creates the file that it names."""

    def __init__(self, canary: Path) -> None:
        self._canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self._canary), "w")


def bomb(canary: Path) -> bytes:
    return pickle.dumps(Bomb(canary), protocol=4)


def settle(condition: Any) -> None:
    """Wait until the condition holds; other threads bring it about."""
    pause = threading.Event()
    for _ in range(int(WAIT / 0.005)):
        if condition():
            return
        pause.wait(0.005)
    raise AssertionError("it has not come about")


@contextmanager
def listening(relay: TaskRelay) -> Iterator[str]:
    """The address of a relay that guests connect to by themselves."""
    with short_directory() as place, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place / "relay"))
        listener.listen(64)

        def accept() -> None:
            while True:
                try:
                    relay.accept(listener.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"unix:{place / 'relay'}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
