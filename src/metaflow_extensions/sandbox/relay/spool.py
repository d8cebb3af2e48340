"""Bytes on their way from a guest: in memory while small, then in an unnamed file."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import BinaryIO

IN_MEMORY = 4 << 20  # bytes


class Spool:
    """Write chunks, then read them back from the start; closed by the context manager."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.file: BinaryIO = io.BytesIO()
        self.size = 0

    def write(self, chunk: bytes) -> None:
        """Append ``chunk``. Raises OSError when the disk is full."""
        if isinstance(self.file, io.BytesIO) and self.size + len(chunk) > IN_MEMORY:
            on_disk: BinaryIO = tempfile.TemporaryFile(dir=self._directory)  # noqa: SIM115 -- closed by __exit__
            on_disk.write(self.file.getbuffer())
            self.file = on_disk
        self.file.write(chunk)
        self.size += len(chunk)

    def rewind(self) -> BinaryIO:
        """The file, at its start."""
        self.file.seek(0)
        return self.file

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
