"""What the SDK's errors mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from metaflow_extensions.sandbox.errors import QuotaExceeded, StartFailed, UnsupportedOption

boxlite = pytest.importorskip("boxlite", reason="the SDK is missing: pip install boxlite")

from metaflow_extensions.sandbox.backends.boxlite import failures  # noqa: E402

PULL = "storage error: Failed to pull image 'x' after trying 1 registry: - x: storage error: "


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("failed to pull a registry token [UNAUTHORIZED]: Authentication failure", UnsupportedOption),
        ("failed to pull manifest [DENIED]: requested access to the resource is denied", UnsupportedOption),
        ("failed to pull manifest [MANIFEST_UNKNOWN]: Registry error", UnsupportedOption),
        ("failed to pull manifest: Server error: code: 503", StartFailed),
        ("error sending request for url (http://127.0.0.1:40140/v2/403)", StartFailed),
    ],
)
def test_images(said: str, kind: type[Exception]) -> None:
    """A number within a port or a digest is no answer of a registry."""
    error = boxlite.StorageError(PULL + said)
    assert type(failures.COMPLAINTS.refusal("x", str(error))) is kind
    assert type(failures.of_start("x", error, None, None)) is kind


def test_boot_says_what_the_logs_say(tmp_path: Path) -> None:
    """The SDK's own message has no reason in it; the end of its logs does."""
    (tmp_path / "shim.stderr").write_text("x" * 1000 + "\nKVM_EXIT_INTERNAL_ERROR\n")
    error = failures.of_start(
        "x", boxlite.EngineError("The VM failed to start."), tmp_path, Path("/home/of/it")
    )
    assert isinstance(error, StartFailed)
    assert "KVM_EXIT_INTERNAL_ERROR" in str(error)
    assert "/home/of/it/logs" in str(error)
    assert len(str(error).splitlines()) == 1
    assert len(str(error)) < 800


def test_storage_that_is_no_image_is_not_the_users_mistake() -> None:
    """A full disk is not mended by another image=."""
    error = boxlite.StorageError("storage error: No space left on device")
    assert type(failures.of_start("x", error, None, None)) is StartFailed


def test_no_room_is_a_quota() -> None:
    """What passes by itself is waited for."""
    error = boxlite.ResourceExhaustedError("too many boxes")
    assert type(failures.of_start("x", error, None, None)) is QuotaExceeded
