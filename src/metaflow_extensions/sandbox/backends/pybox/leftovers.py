"""Ends pybox sandboxes by their id alone: by ``destroy``, and when their launcher is gone."""

from __future__ import annotations

import contextlib
from pathlib import Path

from ...errors import SandboxLost
from .. import local_state
from ..local_processes import children
from ..local_state import LocalState

END = f"{__name__}:end"  # for the warden


def state_directory() -> Path:
    """Where the sandboxes of this backend are remembered, made when absent."""
    return local_state.state_directory("pybox")


def end(base: str, *sandbox_ids: str) -> None:
    """Kill what runs in these sandboxes and remove every trace; idempotent."""
    for sandbox_id in sandbox_ids:
        state = LocalState.find(Path(base), sandbox_id)
        if state:
            with contextlib.suppress(FileNotFoundError, SandboxLost):  # another ends it as well
                for entry in list((state.directory / "processes").iterdir()):
                    # pybox itself, which makes files until it is gone.
                    for pid in children(int(entry.name)):
                        state.record(pid)
            state.destroy()
