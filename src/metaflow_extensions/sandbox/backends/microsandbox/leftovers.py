"""Removes sandboxes by their name: by ``destroy``, after a failed boot, and when their launcher is gone."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import sqlite3
import time
from pathlib import Path

from microsandbox import MicrosandboxError, Sandbox, SandboxNotFoundError

from ...errors import SandboxLost
from ..async_calls import loop
from ..local_state import LocalState
from .place import Place, find

END = f"{__name__}:end"  # for the warden, which has its settings from the launcher's environment
DEADLINE = 60.0  # seconds for the removal of one
SCRUB_TRIES = 20
BUSY = 10.0  # seconds that another may keep the database locked


def end(*sandbox_ids: str) -> None:
    """Remove these sandboxes of the place that the environment names; idempotent."""
    place = find()
    for sandbox_id in filter(LocalState.is_id, sandbox_ids):
        remove(place, sandbox_id)
        scrub(place)


def remove(place: Place, sandbox_id: str) -> None:
    """Kill a sandbox and remove what the SDK keeps of it; idempotent. Raises SandboxLost, CommandTimeout."""
    place.use()
    try:
        loop().call(lambda: _remove(place, sandbox_id), DEADLINE)
    except MicrosandboxError as error:
        raise SandboxLost(
            f"{place.label} does not remove {sandbox_id} ({error}): later, msb remove --force {sandbox_id} "
            "does"
        ) from error
    if not place.url:
        _remove_locks(place.home, sandbox_id)


def scrub(place: Place) -> None:
    """Let the database forget what was deleted: secrets of sandboxes that are gone stay in its free pages."""
    database = place.home / "db" / "msb.db"
    if place.url or not database.exists():
        return
    with contextlib.closing(sqlite3.connect(database, timeout=BUSY, isolation_level=None)) as connection:
        for _ in range(SCRUB_TRIES):
            with contextlib.suppress(sqlite3.OperationalError):  # another of the user's processes writes
                connection.execute("VACUUM")
                busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                if not busy:
                    return
            time.sleep(0.05)


async def _remove(place: Place, sandbox_id: str) -> None:
    with contextlib.suppress(SandboxNotFoundError):
        if place.url:
            try:
                await Sandbox.remove(sandbox_id)
            except SandboxNotFoundError:
                raise
            except MicrosandboxError as error:
                if "running" not in str(error):
                    raise
                await (await Sandbox.get(sandbox_id)).stop()
                await Sandbox.remove(sandbox_id)
        else:
            await (await Sandbox.get(sandbox_id)).destroy(force=True)


def _remove_locks(home: Path, sandbox_id: str) -> None:
    """The runtime names them by the sandbox's name, and leaves them."""
    name = hashlib.sha256(sandbox_id.encode()).hexdigest()
    for entry in [*home.glob(f"run/*/{name[:32]}*"), *home.glob(f"run/*/{name[:24]}")]:
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
