"""Where the stand-ins of the benchmarks keep the disks of their machines."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar
from unittest import mock

MEMORY = Path("/dev/shm")
StandIn = TypeVar("StandIn")


@contextlib.contextmanager
def with_disks_in_memory(stand_in: contextlib.AbstractContextManager[StandIn]) -> Iterator[StandIn]:
    """Enter a stand-in that keeps its temporary files in memory.

    A machine's own disk is new each time, and this machine's is not: right after a thousand files were
    removed, ext4 takes half a second to make as many, since it looks for inodes that were not just freed.
    """
    with contextlib.ExitStack() as stack:
        if not MEMORY.is_dir():
            yield stack.enter_context(stand_in)
            return
        place = stack.enter_context(tempfile.TemporaryDirectory(dir=MEMORY, prefix="metaflow-sandbox-"))
        with mock.patch.dict(os.environ, TMPDIR=place):
            running = stack.enter_context(stand_in)
        yield running
