"""Ends nitrobox sandboxes by their id alone: by ``destroy``, and when their launcher is gone."""

from __future__ import annotations

from pathlib import Path

from .. import local_state
from ..local_state import LocalState
from ..mounts import unmount_below

END = f"{__name__}:end"  # for the warden


def state_directory() -> Path:
    """Where the sandboxes of this backend are remembered, made when absent."""
    return local_state.state_directory("nitrobox")


def end(base: str, *sandbox_ids: str) -> None:
    """Kill what runs in these sandboxes, unmount what nitrobox mounted, remove every trace; idempotent."""
    for sandbox_id in sandbox_ids:
        state = LocalState.find(Path(base), sandbox_id)
        if state:
            state.end_processes()
            unmount_below(state.directory)
            state.destroy()
