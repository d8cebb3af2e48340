"""Removes sandboxes by their name: by ``destroy``, after a failed boot, and when their launcher is gone."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from microsandbox import MicrosandboxError, Sandbox, SandboxNotFoundError

from ...errors import SandboxLost
from ..async_calls import loop
from ..local_state import LocalState
from . import scrub as scrubbing
from .place import Place, find

END = f"{__name__}:end"  # for the warden, which has its settings from the launcher's environment
DEADLINE = 60.0  # seconds for the removal of one


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
    if not place.url and database.exists():
        words = [sys.executable, "-I", "-S", scrubbing.__file__, str(database)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SandboxLost(f"secrets may still be in {database}: {done.stderr.strip()[-500:]}")


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
