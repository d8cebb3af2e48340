"""The account that E2B_API_KEY names, and how our sandboxes are told from others in it."""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from e2b import AsyncSandbox, SandboxQuery

from ...errors import BackendUnavailable, StartFailed, UnsupportedOption
from ..async_calls import loop
from ..interface import SandboxInfo
from .failures import WHERE, is_foreign, status_of, translated

T = TypeVar("T")
LIST = 20.0  # seconds for what the end of a run waits for
ANSWER = 60.0  # seconds for one answer of the API, its own retries included
MARK = "metaflow-sandbox"  # the key of a sandbox's name in its metadata; labels are below it
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{3,63}\Z")


def key() -> str:
    """The key. Raises BackendUnavailable where there is none, or where the SDK was told to use none."""
    if os.environ.get("E2B_DEBUG", "").lower() == "true":
        raise BackendUnavailable(
            "E2B_DEBUG=true keeps the SDK from asking E2B for a sandbox: unset E2B_DEBUG"
        )
    found = os.environ.get("E2B_API_KEY")
    if not found:
        raise BackendUnavailable(
            "E2B needs a key: set E2B_API_KEY to one of https://e2b.dev/dashboard?tab=keys"
        )
    return found


def ask(doing: str, awaited: Callable[[], Awaitable[T]], deadline: float = ANSWER) -> T:
    """Have the SDK do it in the thread of its loop. Raises an error of our tree."""
    key()
    try:
        return loop().call(awaited, deadline)
    except (BackendUnavailable, UnsupportedOption, StartFailed):
        raise
    except Exception as error:  # whatever it is, it is the SDK's
        raise translated(error, doing) from error


def check() -> None:
    """Raise BackendUnavailable unless the API answers and takes the key."""
    doing = "E2B's list of sandboxes"

    async def first_page() -> None:
        await AsyncSandbox.list(limit=1).next_items()

    key()
    try:
        loop().call(first_page, ANSWER)
    except BackendUnavailable:
        raise
    except Exception as error:
        if is_foreign(error) or status_of(error) in (400, 403, 404):
            raise BackendUnavailable(f"{doing} can't be read ({error}): look at {WHERE}") from error
        found = translated(error, doing)
        raise found if isinstance(found, BackendUnavailable) else BackendUnavailable(str(found)) from error


def metadata(name: str, labels: Mapping[str, str]) -> dict[str, str]:
    """What a sandbox is made with."""
    return {MARK: name, **_below(labels)}


async def ours(query: Mapping[str, str]) -> list[SandboxInfo]:
    """Our sandboxes with that metadata; one that has just been made may not be among them."""
    pages = AsyncSandbox.list(query=SandboxQuery(metadata=dict(query)) if query else None)
    found = []
    while pages.has_next:
        for info in await pages.next_items():
            kept = info.metadata or {}
            if MARK in kept and query.items() <= kept.items():
                labels = {
                    name.removeprefix(f"{MARK}."): value
                    for name, value in kept.items()
                    if name.startswith(f"{MARK}.")
                }
                found.append(SandboxInfo(info.sandbox_id, labels, info.started_at.timestamp()))
    return found


def listed(labels: Mapping[str, str]) -> list[SandboxInfo]:
    """Those with the labels, of whoever has the account's keys."""
    return ask("E2B's list of sandboxes", lambda: ours(_below(labels)), LIST)


def is_id(sandbox_id: str) -> bool:
    """Whether it can be an id; others are paths or patterns in a URL."""
    return bool(_ID.match(sandbox_id))


def _below(labels: Mapping[str, str]) -> dict[str, str]:
    return {f"{MARK}.{name}": value for name, value in labels.items()}
