"""The guest's side of the relay: one connection a thread, opened when it is first needed."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from typing import Any, BinaryIO, Dict, Iterable, Iterator, List, NamedTuple, Optional, Tuple, cast

from . import large_files
from .frames import ChannelClosed, encode_frame, read_frame, read_stream, write_stream

ADDRESS_VARIABLE = "METAFLOW_SANDBOX_RELAY"
PIPELINED = 64  # unanswered requests at once: their answers fit a socket's buffer


class RelayRefused(Exception):
    """The launcher refused a request, or could not carry it out; the message says why."""


@contextlib.contextmanager
def told_when_closed() -> Iterator[None]:
    """Say what it means that the relay is closed."""
    try:
        yield
    except (ChannelClosed, ConnectionError) as error:
        raise RelayRefused("the launcher has closed the relay: the run is over or was cancelled") from error


class Content(NamedTuple):
    """What was loaded: ``chunks``, to be read to their end, or a ``file``, to be removed after use."""

    found: bool
    metadata: Optional[Dict[str, Any]]
    chunks: Iterator[bytes]
    file: Optional[str]


class Connection:
    """One connection to the relay: a request, then its answer."""

    def __init__(self, address: str) -> None:
        scheme, _, path = address.partition(":")
        if scheme != "unix":
            raise RelayRefused("%s=%s is not an address that this guest knows" % (ADDRESS_VARIABLE, address))
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(path)
        self.reader: BinaryIO = cast("BinaryIO", self._socket.makefile("rb", 256 * 1024))
        self.writer: BinaryIO = cast("BinaryIO", self._socket.makefile("wb", 256 * 1024))
        self.refused: List[RelayRefused] = []
        self._unanswered = 0
        self._held = False  # answers, by the launcher, until something is asked that is not posted

    def ask(self, header: Dict[str, Any]) -> None:
        """Write one request, with which the answers to what was posted come, too."""
        with told_when_closed():
            self.writer.write(encode_frame(header))
        self._held = False

    def call(self, verb: str, **arguments: Any) -> Dict[str, Any]:
        """One request and its answer. Raises RelayRefused when it is refused."""
        self.ask({**arguments, "verb": verb})
        self.collect(0)
        return self.answer()

    def post(self, verb: str, **arguments: Any) -> None:
        """One request whose answer nobody waits for; its refusal is raised by ``settle``."""
        with told_when_closed():
            self.writer.write(encode_frame({**arguments, "verb": verb, "posted": True}))
            self.writer.flush()
        self._held = True
        self._count()

    def send(self, header: Dict[str, Any], source: BinaryIO) -> None:
        """Queue a request with the bytes of ``source`` behind it; ``collect`` takes its answer."""
        self.ask(header)
        with told_when_closed():
            write_stream(self.writer, source)
        self._count()

    def offer(self, header: Dict[str, Any]) -> bool:
        """Whether a request that names a file needs nothing more; a refusal is kept."""
        self.ask(header)
        self.collect(0)
        try:
            return not self.answer().get("again")
        except RelayRefused as error:
            self.refused.append(error)
            return True

    def collect(self, down_to: int) -> None:
        """Read answers to queued requests until ``down_to`` are left; refusals are kept."""
        if self._held and self._unanswered > down_to:
            self.ask({"verb": "settle"})
            self._unanswered += 1
        while self._unanswered > down_to:
            self._unanswered -= 1
            try:
                self.answer()
            except RelayRefused as error:
                self.refused.append(error)

    def settle(self) -> None:
        """Wait for the answers to all that was queued. Raises RelayRefused for the first refusal."""
        self.collect(0)
        refused, self.refused = self.refused, []
        if refused:
            raise refused[0]

    def _count(self) -> None:
        self._unanswered += 1
        if self._unanswered >= PIPELINED:
            self.collect(PIPELINED // 2)

    def answer(self) -> Dict[str, Any]:
        """The next answer's header. Raises RelayRefused when it is a refusal."""
        with told_when_closed():
            self.writer.flush()
            header, _ = read_frame(self.reader)
        if "error" in header:
            raise RelayRefused(str(header["error"]))
        return header

    def close(self) -> None:
        """Close both directions."""
        self.reader.close()
        self.writer.close()
        self._socket.close()


class RelayClient:
    """Requests of one process inside a sandbox; usable from any thread and after a fork."""

    def __init__(self, address: Optional[str] = None) -> None:
        self._address = address
        self._local = threading.local()

    def connection(self) -> Connection:
        """This thread's connection."""
        if getattr(self._local, "pid", None) != os.getpid():
            address = self._address or os.environ.get(ADDRESS_VARIABLE)
            if not address:
                raise RelayRefused("%s is not set: this process is in no sandbox" % ADDRESS_VARIABLE)
            self._local.connection = Connection(address)
            self._local.pid = os.getpid()
        connection: Connection = self._local.connection
        return connection

    def call(self, verb: str, **arguments: Any) -> Dict[str, Any]:
        """One request and its answer."""
        return self.connection().call(verb, **arguments)

    def post(self, verb: str, **arguments: Any) -> None:
        """One request; what is wrong with it is raised by this thread's next ``save`` or ``settle``."""
        self.connection().post(verb, **arguments)

    def settle(self) -> None:
        """Wait until what this thread has posted is done. Raises RelayRefused when it was refused."""
        self.connection().settle()

    def save(
        self, store: str, items: Iterable[Tuple[str, BinaryIO, Optional[Dict[str, Any]]]], overwrite: bool
    ) -> None:
        """Send objects as (path, file, metadata); refusals are raised after the rest was sent."""
        connection = self.connection()
        # The iterator may use this connection, too.
        for path, source, metadata in items:
            header = {"verb": "save", "store": store, "path": path, "meta": metadata, "overwrite": overwrite}
            with large_files.as_file(source) as file:
                passed = file is not None and connection.offer({**header, "file": file})
            if not passed:
                connection.send(header, source)
        connection.settle()

    def load(self, store: str, path: str) -> Content:
        """An object."""
        return self._content("load", store=store, path=path)

    def load_all(
        self, store: str, paths: List[str], asked: int = 1
    ) -> List[Tuple[bool, Optional[Dict[str, Any]], bytes]]:
        """(found, metadata, content) of small objects, in one round trip.

        Raises RelayRefused for the first ``asked`` ones. One that is refused further on counts as not found:
        nobody has asked for it yet.
        """
        connection = self.connection()
        for path in paths:
            connection.ask({"verb": "load", "store": store, "path": path})
        connection.collect(0)
        objects: List[Tuple[bool, Optional[Dict[str, Any]], bytes]] = []
        refused = None
        for number in range(len(paths)):
            try:
                header = connection.answer()
            except RelayRefused as error:
                refused = refused or (error if number < asked else None)
                header = {"found": False, "meta": None}
            content = b"".join(read_stream(connection.reader)) if header["found"] else b""
            objects.append((header["found"], header["meta"], content))
        if refused:
            raise refused
        return objects

    def include(self, kind: str, url: str) -> Content:
        """An included file."""
        return self._content("include", type=kind, url=url)

    def _content(self, verb: str, **arguments: Any) -> Content:
        connection = self.connection()
        file = large_files.new_path()
        header = connection.call(verb, **arguments, **({"into": file} if file else {}))
        if not header["found"]:
            return Content(False, None, iter(()), None)
        passed = bool(header.get("passed"))
        chunks = iter(()) if passed else read_stream(connection.reader)
        return Content(True, header["meta"], chunks, file if passed else None)
