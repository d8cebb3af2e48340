"""Bytes on their way from a guest: in memory while small, then in an unnamed file."""

from __future__ import annotations

import contextlib
import io
import mmap
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

IN_MEMORY = 1 << 20  # bytes; a task may hold this much on each of its connections


class Spool:
    """Write chunks, then read them back from the start; closed by the context manager."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.file: BinaryIO = io.BytesIO()
        self.size = 0

    def write(self, chunk: bytes) -> None:
        """Append ``chunk``. Raises OSError when the disk is full."""
        try:
            self._write(chunk)
        except OSError as error:
            # The file has no name that could say where it is.
            reason = f"{error.strerror}; free some space there, or set TMPDIR"
            raise OSError(error.errno, reason, str(self._directory)) from error
        self.size += len(chunk)

    def _write(self, chunk: bytes) -> None:
        if isinstance(self.file, io.BytesIO) and self.size + len(chunk) > IN_MEMORY:
            on_disk: BinaryIO = tempfile.TemporaryFile(dir=self._directory)  # noqa: SIM115 -- closed by __exit__
            in_memory, self.file = self.file, on_disk
            on_disk.write(in_memory.getbuffer())
        self.file.write(chunk)

    def rewind(self) -> BinaryIO:
        """The file, at its start."""
        self.file.seek(0)
        return self.file

    @contextlib.contextmanager
    def content(self) -> Iterator[bytes | mmap.mmap]:
        """Everything, as bytes or as a mapping of the file."""
        if isinstance(self.file, io.BytesIO):
            yield self.file.getvalue()
            return
        self.file.flush()
        with mmap.mmap(self.file.fileno(), 0, access=mmap.ACCESS_READ) as mapping:
            yield mapping

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
