"""What many tests look at and is slow to make: made once, for all workers of pytest-xdist."""

from __future__ import annotations

import fcntl
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

T = TypeVar("T")


def session_directory(factory: pytest.TempPathFactory, name: str) -> Path:
    """A directory of that name, the same in all workers."""
    base = factory.getbasetemp()
    directory = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / f"once-{name}"
    directory.mkdir(exist_ok=True)
    return directory


def made_by_one(directory: Path, name: str, make: Callable[[], T]) -> T:
    """What ``make`` returns, which only the first of all workers calls; the others get it pickled."""
    kept = directory / f"{name}.pickle"
    with (directory / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            kept.write_bytes(pickle.dumps(make()))
    made: T = pickle.loads(kept.read_bytes())
    return made
