"""The SDK's errors in our words."""

from __future__ import annotations

import threading

import pytest

pytest.importorskip("daytona", reason="the SDK is missing: pip install daytona")

import daytona

from metaflow_extensions.sandbox.backends.daytona import failures
from metaflow_extensions.sandbox.backends.daytona.client import call
from metaflow_extensions.sandbox.errors import (
    BackendUnavailable,
    CommandTimeout,
    QuotaExceeded,
    StartFailed,
    UnsupportedOption,
)


@pytest.mark.parametrize(
    ("status", "said", "raised"),
    [
        (400, "Snapshot x not found", UnsupportedOption),
        (400, "Total memory limit exceeded. Maximum allowed: 10GiB.", QuotaExceeded),
        (400, "Memory request 64GB exceeds maximum allowed per sandbox (8GB)", UnsupportedOption),
        (401, "Invalid credentials", BackendUnavailable),
        (402, "Organization is suspended: Depleted credits", BackendUnavailable),
        (403, "Total disk limit exceeded", QuotaExceeded),
        (403, "Forbidden resource", BackendUnavailable),
        (404, "Cannot POST /sandbox", BackendUnavailable),
        (404, "Region eu not found", UnsupportedOption),
        (429, "Too Many Requests", QuotaExceeded),
        (500, "Internal Server Error", StartFailed),
        (502, "<html>bad gateway</html>", StartFailed),
        (504, "upstream timed out", StartFailed),
        (None, "certificate verify failed", BackendUnavailable),
    ],
)
def test_classes(status: int | None, said: str, raised: type[Exception]) -> None:
    """Guards what is tried again, what waits, and what the user is to mend."""
    error = daytona.DaytonaError(said, status_code=status)
    assert type(failures.refused(error)) is raised


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "3"}, 3.0),
        ({"retry-after-sandbox-create": "12.5"}, 12.5),
        ({"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, None),
        ({"X": "1"}, None),
    ],
    ids=str,
)
def test_when_to_try_again(headers: dict[str, str], seconds: float | None) -> None:
    """Guards both names of the header, and a date that is no number."""
    error = daytona.DaytonaError("slow down", status_code=429, headers=headers)
    refused = failures.refused(error)
    assert isinstance(refused, QuotaExceeded)
    assert refused.retry_after == seconds


def test_a_call_ends_at_its_deadline() -> None:
    """Guards against an SDK that never answers."""
    with pytest.raises(CommandTimeout):
        call(threading.Event().wait, 0.05)


def test_a_timeout_of_the_sdk_stays_its_own() -> None:
    """Guards against our deadline being blamed for another's."""

    def late() -> None:
        raise TimeoutError("the SDK's")

    with pytest.raises(TimeoutError, match="the SDK's"):
        call(late, 30)
