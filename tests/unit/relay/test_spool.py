"""Bytes that wait to be stored."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest

from metaflow_extensions.sandbox.relay.spool import IN_MEMORY, Spool


@pytest.mark.parametrize("sizes", [[], [5, 7], [IN_MEMORY], [IN_MEMORY, 1], [IN_MEMORY // 2] * 5])
def test_what_goes_in_comes_out(tmp_path: Path, sizes: list[int]) -> None:
    """Guards against bytes lost where memory is exchanged for a file."""
    chunks = [bytes([number]) * size for number, size in enumerate(sizes)]
    with Spool(tmp_path) as spool:
        for chunk in chunks:
            spool.write(chunk)
        assert spool.size == sum(sizes)
        assert spool.rewind().read() == b"".join(chunks)
        with spool.content() as content:
            assert content[:] == b"".join(chunks)


def test_large_content_stays_on_disk(tmp_path: Path) -> None:
    """Guards against artifacts that fill the launcher's memory while they are vetted."""
    with Spool(tmp_path) as spool:
        spool.write(b"x" * (IN_MEMORY + 1))
        with spool.content() as content:
            assert isinstance(content, mmap.mmap)


def test_no_file_has_a_name(tmp_path: Path) -> None:
    """Guards against files left behind by a task that was killed."""
    with Spool(tmp_path) as spool:
        spool.write(b"x" * (IN_MEMORY + 1))
        assert list(tmp_path.iterdir()) == []
    assert spool.file.closed


def test_no_space(tmp_path: Path) -> None:
    """Guards against an unclear failure where the directory is gone."""
    with Spool(tmp_path / "missing") as spool, pytest.raises(OSError, match="missing"):
        spool.write(b"x" * (IN_MEMORY + 1))
