"""What several integration tests need and only some machines have."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .engines import Podman, podman_service, why_no_podman


@pytest.fixture(scope="session")
def podman() -> Iterator[Podman]:
    """A Podman service with the test image."""
    reason = why_no_podman()
    if reason:
        pytest.skip(reason)
    with podman_service() as service:
        yield service
