"""What several integration tests need and only some machines have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .engines import Podman


@pytest.fixture(scope="session")
def podman() -> Iterator[Podman]:
    """A Podman service with the test image."""
    # Here: most tests run without the SDK.
    from .engines import podman_service, why_no_podman

    reason = why_no_podman()
    if reason:
        pytest.skip(reason)
    with podman_service() as service:
        yield service
