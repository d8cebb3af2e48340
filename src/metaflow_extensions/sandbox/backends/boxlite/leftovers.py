"""Ends sandboxes by their ids alone: by ``destroy``, and when their launcher is gone."""

from __future__ import annotations

import json
import os
from pathlib import Path

from boxlite import BoxliteError

from ...errors import BackendUnavailable, CommandTimeout, SandboxLost
from .. import local_state
from ..local_state import LocalState
from .runtime import Place, Runtime
from .slots import take_home

END = f"{__name__}:end"  # for the warden
PLACE = "place.json"


def state_directory() -> Path:
    """Where the sandboxes of this backend are remembered, made when absent."""
    return local_state.state_directory("boxlite").resolve()


def remember(state: LocalState, place: Place) -> None:
    """Keep where a sandbox's box will be; never a credential."""
    kept = {"url": place.url, "prefix": place.prefix, "home": str(place.home) if place.home else None}
    state.keep(PLACE, json.dumps(kept))


def end(base: str, *sandbox_ids: str) -> None:
    """Remove the boxes of these sandboxes and what is remembered of them; idempotent."""
    places: dict[Place, list[LocalState]] = {}
    for sandbox_id in sandbox_ids:
        state = LocalState.find(Path(base), sandbox_id)
        if state:
            place = _place(state)
            # The launcher sees from here on that it is destroyed; what is remembered goes after the box.
            state.end_processes()
            if place and not _in_use(place):
                places.setdefault(place, []).append(state)
            else:
                state.destroy()
    for place, states in places.items():
        _remove(place, [state.id for state in states])
        for state in states:
            state.destroy()


def _remove(place: Place, names: list[str]) -> None:
    found = None
    try:
        found = Runtime(place)
        for name in names:
            found.remove(name)
    except (BackendUnavailable, BoxliteError, CommandTimeout) as error:
        where = place.url or place.home
        raise SandboxLost(
            f"boxes can't be removed at {where} ({error}): boxlite rm --force {' '.join(names)}"
        ) from error
    finally:
        if found:
            found.close()


def _in_use(place: Place) -> bool:
    """Whether another process has the home: it removes what has been destroyed when it closes the sandbox."""
    if place.home is None:
        return False
    slot = take_home(place.home) if place.home.is_dir() else None
    if slot:
        slot.release()
    return slot is None


def _place(state: LocalState) -> Place | None:
    try:
        kept = json.loads((state.directory / PLACE).read_text())
    except FileNotFoundError:
        return None  # it was killed before it had made a box
    return Place(kept["url"], kept["prefix"], Path(os.fsdecode(kept["home"])) if kept["home"] else None)
