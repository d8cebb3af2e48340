"""What an engine's words about an image mean."""

from __future__ import annotations

import pytest

from metaflow_extensions.sandbox.backends.image_refusal import Complaints
from metaflow_extensions.sandbox.errors import SandboxError, StartFailed, UnsupportedOption

COMPLAINTS = Complaints(
    denied=("denied", "401", "[unauthorized]"), absent=("not found", "404"), malformed=("must be lowercase",)
)


@pytest.mark.parametrize(
    ("image", "reason", "error", "words"),
    [
        ("a/b", "status code 401 from the registry", UnsupportedOption, "denies"),
        ("a/b", "[UNAUTHORIZED] who are you", UnsupportedOption, "denies"),
        ("a/b", "manifest of a/b:1 Not Found", UnsupportedOption, "there is no image"),
        ("A/b", "repository must be lowercase", UnsupportedOption, "names no image"),
        ("a/b", "connection refused", StartFailed, "can't be pulled"),
        # Of the address, the name and a digest, not of the answer.
        ("127.0.0.1:40183/a", "127.0.0.1:40183/a: not found", UnsupportedOption, "there is no image"),
        ("host:401/a:1", "dial tcp host:401: i/o timeout", StartFailed, "can't be pulled"),
        ("denied/a:404", "denied/a:404: i/o timeout", StartFailed, "can't be pulled"),
        ("a@sha256:0401", "reading sha256:0401 of a: i/o timeout", StartFailed, "can't be pulled"),
    ],
)
def test_kinds_of_refusal(image: str, reason: str, error: type[SandboxError], words: str) -> None:
    """Guards against an image that is tried for ever, and one given up for the number of a port."""
    refusal = COMPLAINTS.refusal(image, reason)
    assert type(refusal) is error
    assert words in str(refusal)
    assert reason in str(refusal)
