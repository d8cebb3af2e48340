"""A sandbox made exactly once: one whose creation nobody can tell is looked for by its name, and ended."""

from __future__ import annotations

import asyncio
import inspect
import time
from typing import Any

from e2b import AsyncSandbox, SandboxLifecycle

from ...errors import BackendUnavailable, QuotaExceeded, SandboxError, UnsupportedOption
from ..async_calls import loop
from ..interface import SandboxSpec
from ..warden import Warden
from .account import ANSWER, MARK, ask, metadata, ours
from .failures import failure, status_of
from .leftovers import kill

SHORT = 900.0  # seconds that a sandbox lives on without a launcher, where no lifetime was asked for
MARGIN = 60.0  # seconds beyond a lifetime, which is ended from here
LONGEST = 3600.0  # seconds, what every plan of E2B allows
SETTLED = 30.0  # seconds within which a list shows what was made
LOOK_EVERY = 1.0  # seconds
EVERYWHERE = "0.0.0.0/0"
# Not in the last SDK for Python 3.10.
_ONCE = "idempotency_key" in inspect.signature(AsyncSandbox.create).parameters


def time_to_live(lifetime: float | None) -> int:
    """Seconds after which E2B ends a sandbox whose launcher is gone."""
    return int(min(lifetime + MARGIN, LONGEST) if lifetime else SHORT)


def network(spec: SandboxSpec) -> dict[str, Any]:
    """What a sandbox reaches, and that nobody reaches what listens in it."""
    rules: dict[str, Any] = {"allow_public_traffic": False}
    if not isinstance(spec.network, str):
        rules |= {"allow_out": list(spec.network), "deny_out": [EVERYWHERE]}
    return {"allow_internet_access": spec.network != "none", "network": rules}


def create(spec: SandboxSpec, template: str, name: str, guard: Warden) -> AsyncSandbox:
    """A running sandbox. Raises UnsupportedOption, QuotaExceeded, BackendUnavailable or StartFailed.

    ``guard`` watches the name already; from here on the sandbox's id in its place.
    """
    once: dict[str, Any] = {"idempotency_key": name} if _ONCE else {}

    async def made() -> AsyncSandbox:
        made: AsyncSandbox = await AsyncSandbox.create(
            template,
            timeout=time_to_live(spec.lifetime),
            metadata=metadata(name, spec.labels),
            lifecycle=SandboxLifecycle(on_timeout="kill", auto_resume=False),
            # Waiting for what is refused is the launcher's, which has more to start.
            retries=0,
            **network(spec),
            **once,
        )
        return made

    try:
        sandbox = ask(f"a sandbox of the template {template!r}", made)
    except (UnsupportedOption, QuotaExceeded, BackendUnavailable):
        guard.forget(name)  # it was refused
        raise
    except SandboxError:
        loop().start(lambda: end_by_name(name, guard))
        raise
    guard.watch(sandbox.sandbox_id)
    guard.forget(name)
    return sandbox


def lacks_template(error: UnsupportedOption) -> bool:
    """Whether it is the template that is not there, or not ready."""
    said = error.__cause__
    return said is not None and (status_of(said) == 404 or "template" in str(said).lower())


async def end_by_name(name: str, guard: Warden | None = None) -> None:
    """End what was made under a name, or may still show up; E2B's lists lag behind."""
    deadline = time.monotonic() + SETTLED
    ended = False

    async def look() -> None:
        nonlocal ended
        for info in await ours({MARK: name}):
            ended = await kill(info.id) or ended

    while not ended and time.monotonic() < deadline:
        await asyncio.sleep(LOOK_EVERY)
        await failure(look(), ANSWER)  # and again
    if guard:
        guard.forget(name)
