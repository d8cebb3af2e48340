"""What the SDK's errors are taken for."""

from __future__ import annotations

import httpx
import pytest

pytest.importorskip("e2b")

from e2b.exceptions import (
    AuthenticationException,
    NotFoundException,
    RateLimitException,
    SandboxException,
    SandboxNotRunningException,
    ServiceBusyException,
    TimeoutException,
)

from metaflow_extensions.sandbox.backends.e2b.failures import is_foreign, retry_after, status_of, translated
from metaflow_extensions.sandbox.errors import (
    BackendUnavailable,
    CommandTimeout,
    QuotaExceeded,
    SandboxError,
    StartFailed,
    UnsupportedOption,
)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (AuthenticationException("401: Unauthorized"), BackendUnavailable),
        (httpx.ConnectError("refused"), BackendUnavailable),
        (SandboxException("404: b'<html>'"), BackendUnavailable),
        (ValueError("Expecting value"), BackendUnavailable),
        (RateLimitException("429: Rate limit exceeded"), QuotaExceeded),
        (SandboxException("400: Timeout cannot be greater than 1 hours"), UnsupportedOption),
        (NotFoundException("404: template 'x' not found"), UnsupportedOption),
        (ServiceBusyException("503: no capacity"), StartFailed),
        (SandboxException("500: internal"), StartFailed),
        (TimeoutException("timed out"), StartFailed),
        (SandboxNotRunningException("gone"), StartFailed),
        (httpx.ReadTimeout(""), StartFailed),
        (CommandTimeout("no answer"), StartFailed),
        (Exception("Body of the request is None"), StartFailed),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else f"{type(value).__name__} {value}",
)
def test_errors_are_told_apart(error: Exception, expected: type[SandboxError]) -> None:
    """Guards what is tried again, what waits, and what the user has to mend."""
    found = translated(error, "a sandbox")
    assert type(found) is expected
    assert "a sandbox" in str(found) or isinstance(error, AuthenticationException)


def test_seconds_of_an_answer() -> None:
    """Guards the one place where Retry-After can be had."""

    def refused(value: str) -> None:
        res = httpx.Response(429, headers={"Retry-After": value})
        raise RateLimitException(f"{res.status_code}: Rate limit exceeded")

    for value, seconds in (("7", 7.0), ("Sat, 21 Nov 2026 07:00:00 GMT", None)):
        with pytest.raises(RateLimitException) as raised:
            refused(value)
        assert retry_after(raised.value) == seconds
    assert retry_after(RateLimitException("429")) is None


def test_statuses() -> None:
    """Guards the SDK's two ways of saying them."""
    assert status_of(RateLimitException("x")) == 429
    assert status_of(SandboxException("404: b'x'")) == 404
    assert status_of(SandboxException("no status 404: here")) is None
    assert is_foreign(SandboxException("404: b'x'"))
    assert not is_foreign(SandboxException("404: template 'x' not found"))
