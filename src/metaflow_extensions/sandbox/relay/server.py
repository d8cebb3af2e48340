"""Answers the requests of one task's guest: a closed list of verbs, each checked by the policy."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

from ..errors import RelayError
from ..guest.frames import (
    ChannelClosed,
    FrameError,
    encode_frame,
    parse_header,
    read_exact,
    read_lengths,
    read_stream,
    write_stream,
)
from .answers import drain, encode_answer
from .arguments import integer, items, optional_mapping, optional_text, text, texts
from .intake import Intake
from .large_files import NotPassed, content, passed
from .lifecycle import Lifecycle
from .policy import Kind, Policy
from .records import check_artifact, check_entry, check_question
from .services import Files, Limits, SecretSource, Services, Witness
from .stdio import Channel

Header = dict[str, Any]
Connection = socket.socket | Channel
BUFFER = 64 * 1024  # bytes, for each direction of a connection
LARGE_HEADER = 64 * 1024  # bytes
MAX_ERROR = 4096  # characters
MAX_ENTRIES = 100_000  # of one listing


@dataclass
class TaskRelay:
    """The relay of one attempt of one task; every connection that comes through its channel is it.

    ``services`` may take a moment the first time: Metaflow is being imported. ``datastore`` is where the
    task's results go, as TYPE@ROOT; ``stores`` maps all storages that it may name to whether it may write
    there; ``secrets`` are those that its step declares; ``facts`` are the metadata fields whose values the
    launcher knows. ``keep`` asks the guest of a step that fails to stay; ``trace`` is told of each frame, by
    "guest" or "launcher". A task in ``direct`` mode may have credentials of the datastore.
    """

    policy: Policy
    services: Callable[[], Services]
    witness: Witness
    intake: Intake
    datastore: str
    stores: Mapping[str, bool]
    secrets: Sequence[SecretSource] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    keep: bool = False
    trace: Callable[[str, Header], None] | None = None
    direct: bool = False

    def __post_init__(self) -> None:
        self._beating = False
        self._registered = False
        self._closed = False
        self._reporting = False
        self._lock = threading.Lock()
        # One at a time: what JSON becomes once parsed takes many times its bytes.
        self._large = threading.Lock()
        self._connections: set[Connection] = set()
        # The sandbox, while there is one that passes large content faster than its channels.
        self.files: Files | None = None
        self.lifecycle = Lifecycle(self.witness, keep=self.keep)
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
            "settle": lambda *_: {},
            "secret": self._secret,
            "s3_credentials": self._s3_credentials,
            "terminal": self.lifecycle.terminal,
            "started": self.lifecycle.started,
            "ended": self.lifecycle.ended,
        }

    def accept(self, connection: Connection) -> None:
        """Serve ``connection`` on a thread of its own; one over the limit is closed at once."""
        with self._lock:
            refused = len(self._connections) >= self.limits.connections
            if not refused and not self._closed:
                self._connections.add(connection)
            report = refused and not self._reporting
            self._reporting = self._reporting or refused
        if refused or self._closed:
            connection.close()
            if report:
                # The witness may wait for a reader of the task's output; whoever accepts must not.
                threading.Thread(target=self._report_overflow, daemon=True).start()
            return
        threading.Thread(target=self._serve_socket, args=(connection,), daemon=True).start()

    def close(self) -> None:
        """Cut every connection; what comes later is not served."""
        with self._lock:
            self._closed = True
            connections = list(self._connections)
        for connection in connections:
            with contextlib.suppress(OSError):  # it went by itself
                connection.shutdown(socket.SHUT_RDWR)
        self.lifecycle.close()
        if self._beating:
            self.services().stop_heartbeat(self.policy.identity)

    def _report_overflow(self) -> None:
        self.witness.refused(f"connections over the limit of {self.limits.connections}")
        with self._lock:
            self._reporting = False

    def _serve_socket(self, connection: Connection) -> None:
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
        try:
            self._serve(reader, writer)
        finally:
            self.lifecycle.closed(writer)

    def _serve(self, reader: BinaryIO, writer: BinaryIO) -> None:
        while not self._closed:
            header_size, payload_size = read_lengths(reader)
            if payload_size or not header_size:
                raise FrameError("a request is a header without a payload")
            with self._large if header_size > LARGE_HEADER else contextlib.nullcontext():
                header = parse_header(read_exact(reader, header_size))
                answer = self._answer(header, reader, writer)
            if answer is not None:
                writer.write(answer)
            # For what is posted nobody waits: its answer goes with the next one.
            if header.get("posted") is not True:
                writer.flush()

    def _answer(self, header: Header, reader: BinaryIO, writer: BinaryIO) -> bytes | None:
        verb = header.get("verb")
        handle = self._verbs.get(verb) if isinstance(verb, str) else None
        if handle is None:
            raise FrameError(f"unknown verb {str(verb)[:40]!r}")
        if self.trace:
            self.trace("guest", header)
        try:
            answer = handle(header, reader, writer)
            if self.trace:
                self.trace("launcher", answer or {})
            return None if answer is None else encode_answer(answer)
        except RelayError as error:
            self.witness.refused(str(error))
            return encode_frame({"error": f"refused: {error}"})
        except (FrameError, ChannelClosed):
            raise
        except Exception as error:  # noqa: BLE001 -- the providers' own errors are theirs to name
            self.witness.failed(verb or "", error)
            return encode_frame(
                {"error": f"{verb} failed on the launcher: {type(error).__name__}: {str(error)[:MAX_ERROR]}"}
            )

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
        # Each once: a path named 10,000 times would be answered 10,000 times.
        store, paths = self._store(header), list(dict.fromkeys(texts(header, "paths")))
        for path in paths:
            self.policy.listing(path)
        entries = []
        for path in paths:
            entries += [list(entry) for entry in self.services().storage(store).list_content([path])]
            if len(entries) > MAX_ENTRIES:
                raise RelayError(f"listing of more than {MAX_ENTRIES} objects at once")
        return {"entries": entries}

    def _save(self, header: Header, reader: BinaryIO, _: BinaryIO) -> Header:
        file = optional_text(header, "file")
        chunks = read_stream(reader) if file is None else content(self.files, file)
        try:
            store, path = self._store(header, writing=True), text(header, "path")
            metadata, overwrite = optional_mapping(header, "meta"), header.get("overwrite") is True
            kind = self.policy.writing(path)
            if kind is not Kind.CARD and store != self.datastore:
                raise RelayError(f"write to {path!r}: results go to the run's own datastore")
            storage = self.services().storage(store)
            self.intake.receive(storage, kind, path, chunks, metadata, overwrite=overwrite)
        except NotPassed:
            return {"again": True}
        finally:
            if file is None:
                drain(chunks, self.limits.task)
        if kind is Kind.OWN and self.intake.done:
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
                    return self._give(header, writer, source, metadata)
        return {"found": False, "meta": None}

    def _include(self, header: Header, _: BinaryIO, writer: BinaryIO) -> Header | None:
        with self.services().include_file(text(header, "type"), text(header, "url")) as local:
            if local is None:
                return {"found": False, "meta": None}
            with local.open("rb") as source:
                return self._give(header, writer, source, None)

    def _give(
        self, header: Header, writer: BinaryIO, source: BinaryIO, metadata: Header | None
    ) -> Header | None:
        answer: Header = {"found": True, "meta": metadata}
        if passed(self.files, Path(source.name), optional_text(header, "into")):
            return {**answer, "passed": True}
        writer.write(encode_frame(answer))
        write_stream(writer, source)
        return None

    def _register_task(self, *_: object) -> Header:
        with self._lock:
            registered, self._registered = self._registered, True
        if not registered:
            self.services().register_task(self.policy.identity)
        return {}

    def _register_metadata(self, header: Header, *_: BinaryIO) -> Header:
        entries = [
            (text(item, "field"), optional_text(item, "value"), text(item, "type"), texts(item, "tags"))
            for item in items(header, "items")
        ]
        for entry in entries:
            check_entry(entry, self.policy.identity, self.facts)
        self.intake.budget.take_pieces(len(entries), sum(len(value or "") for _, value, _, _ in entries))
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
            check_artifact(entry, self.datastore, self.intake.accepted)
        self.intake.budget.take_pieces(len(entries))
        self.services().register_artifacts(self.policy.identity, entries)
        return {}

    def _heartbeat(self, *_: object) -> Header:
        self._beating = True
        self.services().start_heartbeat(self.policy.identity)
        return {}

    def _metadata_object(self, header: Header, *_: BinaryIO) -> Header:
        path, kind, sub_kind = texts(header, "path"), text(header, "kind"), text(header, "sub_kind")
        filters = optional_mapping(header, "filters") or {}
        attempt = None if header.get("attempt") is None else integer(header, "attempt")
        check_question(kind, sub_kind, filters, path, self.policy.identity)
        return {"object": self.services().metadata_object(kind, sub_kind, filters, attempt, path)}

    def _secret(self, header: Header, *_: BinaryIO) -> Header:
        kind, name = text(header, "type"), text(header, "id")
        options = optional_mapping(header, "options") or {}
        for declared in self.secrets:
            if (declared.kind, declared.name, declared.options) == (kind, name, options):
                # The role is the launcher's own: a guest must not choose whose credentials are used.
                return {"values": self.services().secret(declared)}
        raise RelayError(f"the secret {name[:200]!r} of {kind!r}: the step's @secrets does not name it")

    def _s3_credentials(self, *_: object) -> Header:
        if not self.direct:
            raise RelayError("the datastore's credentials: the step does not have datastore_access='direct'")
        return {"credentials": self.services().s3_credentials(self.policy.identity)}
