"""What the SDK's errors mean, in words of ours; quota answers are 4xx like others, known by their words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import daytona
from urllib3.exceptions import NewConnectionError

from ...errors import (
    BackendUnavailable,
    CommandTimeout,
    QuotaExceeded,
    SandboxError,
    StartFailed,
    UnsupportedOption,
)
from ..image_refusal import Complaints
from .client import url

TOO_LARGE = re.compile(r"per sandbox|exceeds? (the )?maximum", re.IGNORECASE)
QUOTA = re.compile(r"quota|limit exceeded|limit reached|maximum allowed|too many|rate limit", re.IGNORECASE)
NAMES = re.compile(r"snapshot|image|volume|target|region", re.IGNORECASE)
IMAGES = Complaints(
    denied=("denied", "unauthorized"),
    absent=("not found", "manifest unknown", "not exist"),
    malformed=("invalid reference format", "must be lowercase"),
)


def is_gone(error: Exception) -> bool:
    """Whether the sandbox that was asked for does not exist any more."""
    return isinstance(error, (daytona.DaytonaNotFoundError, daytona.DaytonaGoneError))


def is_definite(error: Exception) -> bool:
    """Whether nothing can have come of the call; a conflict may be with what the call itself made."""
    status = getattr(error, "status_code", None)
    if isinstance(getattr(error.__cause__, "reason", None), NewConnectionError):
        return True
    return status is not None and 400 <= status < 500 and status not in (408, 409)


def refused(error: Exception) -> SandboxError:
    """What to raise for a failed call of the control plane."""
    status, said = getattr(error, "status_code", None), str(error)
    if status == 429:
        return QuotaExceeded(f"Daytona asks to wait: {said}", retry_after(error))
    if status in (400, 402, 403, 422) and TOO_LARGE.search(said):
        return UnsupportedOption(f"Daytona has no sandboxes of this size: {said}")
    if status in (400, 402, 403, 409, 422) and QUOTA.search(said):
        return QuotaExceeded(f"Daytona gives no more for now: {said}", retry_after(error))
    if status in (401, 402, 403):
        return BackendUnavailable(
            f"Daytona refuses the key ({said}): check DAYTONA_API_KEY, its permissions and the organization"
        )
    if status in (400, 422) or (status == 404 and NAMES.search(said)):
        return UnsupportedOption(f"Daytona refuses what the step asks for: {said}")
    if status is not None and status >= 500:
        return StartFailed(f"Daytona fails: {said}")
    if isinstance(error, (CommandTimeout, daytona.DaytonaTimeoutError)):
        return StartFailed(f"Daytona took too long: {said}")
    return BackendUnavailable(f"Daytona does not answer at {url()} ({said}): check DAYTONA_API_URL")


def broken(reason: str, image: str) -> SandboxError:
    """What to raise for a sandbox that went into an error state on its way up."""
    if isinstance(IMAGES.refusal(image, reason), UnsupportedOption):
        return UnsupportedOption(
            f"Daytona can't build a sandbox from {image!r} ({reason}): correct image=, or give Daytona the "
            "registry's login in its dashboard"
        )
    return StartFailed(f"Daytona did not bring up a sandbox from {image!r}: {reason}")


def retry_after(error: Exception) -> float | None:
    """Seconds, where an answer said them; Daytona names the limit in the header, too."""
    headers: Mapping[str, Any] = getattr(error, "headers", None) or {}
    for name, value in headers.items():
        if str(name).lower().startswith("retry-after"):
            try:
                return max(0.0, float(value))
            except ValueError:
                return None
    return None
