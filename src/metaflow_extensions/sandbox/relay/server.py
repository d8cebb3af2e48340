"""Answers the requests of one task's guest: a closed list of verbs, each checked by the policy."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

from ..errors import RelayError
from ..guest.frames import (
    ChannelClosed,
    FrameError,
    encode_frame,
    read_frame,
    read_stream,
    write_stream,
)
from .arguments import integer, items, optional_mapping, optional_number, optional_text, text, texts
from .intake import Intake
from .policy import Policy
from .services import Limits, SecretSource, Services, Witness

Header = dict[str, Any]
BUFFER = 256 * 1024  # bytes


@dataclass
class TaskRelay:
    """The relay of one attempt of one task; every connection that comes through its channel is it.

    ``services`` may take a moment the first time: Metaflow is being imported. ``stores`` maps the
    storages that the task may name to whether it may write there; ``secrets`` are those that
    its step declares.
    """

    policy: Policy
    services: Callable[[], Services]
    witness: Witness
    intake: Intake
    stores: Mapping[str, bool]
    secrets: Sequence[SecretSource] = ()
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        self._lifecycle: BinaryIO | None = None
        self._beating = False
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._verbs: Mapping[str, Callable[[Header, BinaryIO, BinaryIO], Header | None]] = {
            "is_file": self._is_file,
            "info_file": self._info_file,
            "size_file": self._size_file,
            "list_content": self._list_content,
            "save": self._save,
            "load": self._load,
            "include": self._include,
            "register_task": self._register_task,
            "register_metadata": self._register_metadata,
            "register_artifacts": self._register_artifacts,
            "heartbeat": self._heartbeat,
            "metadata_object": self._metadata_object,
            "secret": self._secret,
            "started": self._started,
            "ended": self._ended,
        }

    def accept(self, connection: socket.socket) -> None:
        """Serve ``connection`` on a thread of its own; one over the limit is closed at once."""
        with self._lock:
            if len(self._connections) >= self.limits.connections:
                connection.close()
                self.witness.refused(f"a connection over the limit of {self.limits.connections}")
                return
            self._connections.add(connection)
        threading.Thread(target=self._serve_socket, args=(connection,), daemon=True).start()

    def close(self) -> None:
        """Cut every connection."""
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:  # noqa: PERF203 -- each by itself
                continue  # it went by itself
        if self._beating:
            self.services().stop_heartbeat(self.policy.identity)

    def signal(self, number: int) -> bool:
        """Ask the guest to deliver a signal to the step; False when there is no guest to ask."""
        with self._lock:
            if self._lifecycle is None:
                return False
            try:
                self._lifecycle.write(encode_frame({"signal": number}))
                self._lifecycle.flush()
            except (OSError, ValueError):
                return False
            return True

    def _serve_socket(self, connection: socket.socket) -> None:
        try:
            with connection.makefile("rb", BUFFER) as reader, connection.makefile("wb", BUFFER) as writer:
                self.serve(cast("BinaryIO", reader), cast("BinaryIO", writer))
        except (ChannelClosed, OSError):
            pass  # the guest is gone: its exit says what that means
        except FrameError as error:
            self.witness.refused(str(error))
        finally:
            with self._lock:
                self._connections.discard(connection)
            connection.close()

    def serve(self, reader: BinaryIO, writer: BinaryIO) -> None:
        """Answer requests until the channel closes. Raises FrameError for bytes that are no frame."""
        while True:
            header, payload = read_frame(reader)
            if payload or not header:
                raise FrameError("a request is a header without a payload")
            answer = self._answer(header, reader, writer)
            if answer is not None:
                writer.write(encode_frame(answer))
            writer.flush()

    def _answer(self, header: Header, reader: BinaryIO, writer: BinaryIO) -> Header | None:
        verb = header.get("verb")
        handle = self._verbs.get(verb) if isinstance(verb, str) else None
        if handle is None:
            raise FrameError(f"unknown verb {str(verb)[:40]!r}")
        try:
            return handle(header, reader, writer)
        except RelayError as error:
            self.witness.refused(str(error))
            return {"error": f"refused: {error}"}
        except (FrameError, ChannelClosed):
            raise
        except Exception as error:  # noqa: BLE001 -- the providers' own errors are theirs to name
            self.witness.failed(verb or "", error)
            return {"error": f"{type(error).__name__}: {error}"}

    def _store(self, header: Header, *, writing: bool = False) -> str:
        name = text(header, "store")
        if name not in self.stores or (writing and not self.stores[name]):
            raise RelayError(f"{'write to' if writing else 'read of'} the storage {name[:200]!r}")
        return name

    def _is_file(self, header: Header, *_: BinaryIO) -> Header:
        store, paths = self._store(header), texts(header, "paths")
        for path in paths:
            self.policy.reading(path)
        return {"exists": self.services().storage(store).is_file(paths)}

    def _info_file(self, header: Header, *_: BinaryIO) -> Header:
        store, path = self._store(header), text(header, "path")
        self.policy.reading(path)
        exists, metadata = self.services().storage(store).info_file(path)
        return {"exists": exists, "meta": metadata}

    def _size_file(self, header: Header, *_: BinaryIO) -> Header:
        store, path = self._store(header), text(header, "path")
        self.policy.reading(path)
        return {"size": self.services().storage(store).size_file(path)}

    def _list_content(self, header: Header, *_: BinaryIO) -> Header:
        store, paths = self._store(header), texts(header, "paths")
        for path in paths:
            self.policy.listing(path)
        found = self.services().storage(store).list_content(paths)
        return {"entries": [[path, is_file] for path, is_file in found]}

    def _save(self, header: Header, reader: BinaryIO, _: BinaryIO) -> Header:
        chunks = read_stream(reader)
        try:
            store, path = self._store(header, writing=True), text(header, "path")
            metadata, overwrite = optional_mapping(header, "meta"), header.get("overwrite") is True
            kind = self.policy.writing(path)
            storage = self.services().storage(store)
            self.intake.receive(storage, kind, path, chunks, metadata, overwrite=overwrite)
        finally:
            drain(chunks)
        if path.endswith(".DONE.lock"):
            self.witness.finished()
        return {}

    def _load(self, header: Header, _: BinaryIO, writer: BinaryIO) -> Header | None:
        store, path = self._store(header), text(header, "path")
        kind = self.policy.reading(path)
        storage = self.services().storage(store)
        with storage.load_bytes([path]) as loaded:
            for _key, local, metadata in loaded:
                if local is None:
                    break
                with Path(local).open("rb") as source:
                    self.intake.note_input(kind, path, source)
                    writer.write(encode_frame({"found": True, "meta": metadata}))
                    write_stream(writer, source)
                return None
        return {"found": False, "meta": None}

    def _include(self, header: Header, _: BinaryIO, writer: BinaryIO) -> Header | None:
        with self.services().include_file(text(header, "type"), text(header, "url")) as local:
            if local is None:
                return {"found": False, "meta": None}
            with local.open("rb") as source:
                writer.write(encode_frame({"found": True, "meta": None}))
                write_stream(writer, source)
        return None

    def _register_task(self, *_: object) -> Header:
        self.services().register_task(self.policy.identity)
        return {}

    def _register_metadata(self, header: Header, *_: BinaryIO) -> Header:
        entries = [
            (text(item, "field"), optional_text(item, "value"), text(item, "type"), texts(item, "tags"))
            for item in items(header, "items")
        ]
        self.services().register_metadata(self.policy.identity, entries)
        return {}

    def _register_artifacts(self, header: Header, *_: BinaryIO) -> Header:
        entries = [
            {
                "name": text(item, "name"),
                "ds_type": text(item, "ds_type"),
                "ds_root": text(item, "ds_root"),
                "url": optional_text(item, "url"),
                "type": text(item, "type"),
                "sha": text(item, "sha"),
            }
            for item in items(header, "items")
        ]
        for entry in entries:
            if f"{entry['ds_type']}@{entry['ds_root']}" not in self.stores:
                raise RelayError(f"an artifact in the storage {entry['ds_root']!r}")
        self.services().register_artifacts(self.policy.identity, entries)
        return {}

    def _heartbeat(self, *_: object) -> Header:
        self._beating = True
        self.services().start_heartbeat(self.policy.identity)
        return {}

    def _metadata_object(self, header: Header, *_: BinaryIO) -> Header:
        path, kind = texts(header, "path"), text(header, "kind")
        sub_kind, attempt = text(header, "sub_kind"), header.get("attempt")
        identity = self.policy.identity
        whole_flow = path == [identity.flow] and (kind, sub_kind) == ("flow", "self")
        if path[:2] != [identity.flow, identity.run] and not whole_flow:
            raise RelayError(f"read of the metadata of {'/'.join(path)[:200]!r}: not this run")
        found = self.services().metadata_object(
            kind,
            sub_kind,
            optional_mapping(header, "filters") or {},
            None if attempt is None else integer(header, "attempt"),
            path,
        )
        return {"object": found}

    def _secret(self, header: Header, *_: BinaryIO) -> Header:
        kind, name = text(header, "type"), text(header, "id")
        options = optional_mapping(header, "options") or {}
        for declared in self.secrets:
            if (declared.kind, declared.name, declared.options) == (kind, name, options):
                # The role is the launcher's own: a guest must not choose whose credentials are used.
                return {"values": self.services().secret(declared)}
        raise RelayError(f"the secret {name[:200]!r} of {kind!r}: the step's @secrets does not name it")

    def _started(self, _header: Header, _reader: BinaryIO, writer: BinaryIO) -> None:
        self.witness.starting()
        with self._lock:
            # The guest waits for this frame; signals may follow it, never come before.
            writer.write(encode_frame({}))
            writer.flush()
            self._lifecycle = writer
        self.witness.started()

    def _ended(self, header: Header, *_: BinaryIO) -> None:
        self.witness.ended(
            None if header.get("signal") is None else integer(header, "signal"),
            optional_number(header, "peak_memory"),
            optional_number(header, "cpu_time"),
        )


def drain(chunks: Iterator[bytes]) -> None:
    """Read the rest of a stream, so that the next frame is a request."""
    for _ in chunks:
        pass
