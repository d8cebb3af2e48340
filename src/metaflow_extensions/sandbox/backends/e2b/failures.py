"""What the SDK's errors mean. Some carry a status, some have it in their words, and some are httpx's own."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable

import httpx
from e2b.exceptions import (
    AuthenticationException,
    InvalidArgumentException,
    NotFoundException,
    RateLimitException,
    SandboxNotFoundException,
    SandboxNotRunningException,
)

from ...errors import (
    BackendUnavailable,
    CommandTimeout,
    QuotaExceeded,
    SandboxError,
    StartFailed,
    UnsupportedOption,
)

GONE = (SandboxNotRunningException, SandboxNotFoundException)
# Nothing has been sent: there is nobody at that address.
NOT_CONNECTED = (httpx.ConnectError, httpx.UnsupportedProtocol, httpx.InvalidURL, ConnectionError)
WHERE = "E2B_API_URL and E2B_DOMAIN, which are best left unset"
_STATUS = re.compile(r"(\d{3}): ")
_NO_MESSAGE = re.compile(r"\d{3}: b['\"]")  # what the SDK says of an answer without one


def status_of(error: BaseException) -> int | None:
    """The HTTP status that the error comes from, where it comes from one."""
    status = getattr(error, "status_code", None)
    found = _STATUS.match(str(error))
    return int(status) if status else int(found[1]) if found else None


def is_foreign(error: BaseException) -> bool:
    """Whether whoever answered is not E2B's API."""
    return isinstance(error, ValueError) or bool(_NO_MESSAGE.match(str(error)))


async def failure(awaited: Awaitable[object], deadline: float) -> Exception | None:
    """What an SDK's call raises, where whoever calls has a way on: the SDK raises what it likes."""
    try:
        await asyncio.wait_for(awaited, deadline)
    except Exception as error:  # noqa: BLE001
        return error
    return None


def translated(error: Exception, doing: str) -> SandboxError:
    """The error of our tree for one of an SDK's call; ``doing`` is what could not be done."""
    status, said = status_of(error), str(error) or type(error).__name__
    if isinstance(error, AuthenticationException):
        return BackendUnavailable(
            f"E2B refuses the key: {said} Set E2B_API_KEY to one of https://e2b.dev/dashboard?tab=keys"
        )
    if isinstance(error, RateLimitException):
        return QuotaExceeded(f"{doing}: E2B refuses more for now: {said}", retry_after(error))
    if isinstance(error, NOT_CONNECTED) or is_foreign(error):
        return BackendUnavailable(f"{doing}: no API of E2B answers ({said}): look at {WHERE}")
    if isinstance(error, (InvalidArgumentException, NotFoundException)) or status in (400, 403, 404):
        return UnsupportedOption(f"{doing}: E2B refuses it: {said}")
    if isinstance(error, CommandTimeout):
        return StartFailed(f"{doing}: {said}")
    return StartFailed(f"{doing}: E2B fails with {type(error).__name__}: {said}")


def retry_after(error: BaseException) -> float | None:
    """Seconds, where the answer named them.

    The SDK's error does not have the answer, but where the SDK raised it, the answer is at hand.
    """
    trace = error.__traceback__
    while trace:
        headers = getattr(trace.tb_frame.f_locals.get("res"), "headers", {})
        value = str(headers.get("Retry-After", ""))
        if value.isdecimal():
            return float(value)
        trace = trace.tb_next
    return None
