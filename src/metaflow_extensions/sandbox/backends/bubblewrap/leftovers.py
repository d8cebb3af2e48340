"""Ends bubblewrap sandboxes by their id alone: by ``destroy``, and when their launcher is gone."""

from __future__ import annotations

from pathlib import Path

from ..local_state import LocalState

END = f"{__name__}:end"  # for the warden


def end(base: str, *sandbox_ids: str) -> None:
    """Kill what runs in these sandboxes below a base directory, and remove every trace; idempotent."""
    for sandbox_id in sandbox_ids:
        state = LocalState.find(Path(base), sandbox_id)
        if state:
            state.destroy(name_of_bwrap(sandbox_id))


def name_of_bwrap(sandbox_id: str) -> str:
    """What a sandbox's bwrap processes are called, to be found without a record of their pids."""
    return f"bwrap-{sandbox_id}"
