"""Ends sandboxes by ids or names alone: for ``close`` and ``destroy``, and when their launcher is gone."""

from __future__ import annotations

import asyncio
import time

from e2b import AsyncSandbox

from ..async_calls import loop
from ..local_state import LocalState
from ..warden import Warden
from .account import is_id
from .failures import failure

END = f"{__name__}:end"  # for the warden
KILL = 20.0  # seconds for one request, which is not answered before the sandbox is gone
PATIENCE = 120.0  # seconds of asking again
AGAIN = 2.0  # seconds between


async def kill(sandbox_id: str) -> bool:
    """Ask for its end; whether it is gone, which one that E2B does not know is, too."""
    return await failure(AsyncSandbox.kill(sandbox_id), KILL) is None


async def kill_surely(sandbox_id: str, guard: Warden | None = None) -> None:
    """Ask again and again; at the latest it ends with its time to live."""
    deadline = time.monotonic() + PATIENCE
    while not await kill(sandbox_id) and time.monotonic() < deadline:
        await asyncio.sleep(AGAIN)
    if guard:
        guard.forget(sandbox_id)


def remove(sandbox_id: str, guard: Warden | None = None) -> None:
    """End it, or see to it that it ends: one that E2B takes its time to end holds nobody up."""
    if not is_id(sandbox_id):
        return
    if loop().call(lambda: kill(sandbox_id), KILL + AGAIN):
        if guard:
            guard.forget(sandbox_id)
    else:
        loop().start(lambda: kill_surely(sandbox_id, guard))


def end(*left: str) -> None:
    """End sandboxes, and what was made under names; for the warden, whose launcher is gone."""
    from .creation import end_by_name

    async def all_of_them() -> None:
        names = [word for word in left if LocalState.is_id(word)]
        ends = [end_by_name(name) for name in names]
        ends += [kill_surely(word) for word in left if word not in names]
        await asyncio.gather(*ends)

    loop().call(all_of_them, 2 * PATIENCE)
