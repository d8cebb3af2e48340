"""Where the stand-ins of the benchmarks keep the disks of their machines."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar
from unittest import mock

MEMORY = Path("/dev/shm")
StandIn = TypeVar("StandIn")


@contextlib.contextmanager
def memory() -> Iterator[Mapping[str, str]]:
    """The environment of those who keep their temporary files in memory, where there is such a place.

    A machine's own disk is new each time, and this machine's is not: right after a thousand files were
    removed, ext4 takes half a second to make as many, since it looks for inodes that were not just freed.
    """
    if not MEMORY.is_dir():
        yield {}
        return
    with tempfile.TemporaryDirectory(dir=MEMORY, prefix="metaflow-sandbox-") as place:
        yield {"TMPDIR": place}


@contextlib.contextmanager
def with_disks_in_memory(stand_in: contextlib.AbstractContextManager[StandIn]) -> Iterator[StandIn]:
    """Enter a stand-in that keeps its temporary files there."""
    with contextlib.ExitStack() as stack:
        with mock.patch.dict(os.environ, stack.enter_context(memory())):
            running = stack.enter_context(stand_in)
        yield running
