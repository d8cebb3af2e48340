"""What several integration tests need and only some machines have.

METAFLOW_SANDBOX_TESTS_BACKEND=NAME runs tests/integration/test_flows*.py on one of the backends in suites.py,
with the test image unless METAFLOW_SANDBOX_TESTS_IMAGE names another.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from .suites import SUITES

if TYPE_CHECKING:
    from .engines import Podman
    from .registry import Registry

CHOSEN = os.environ.get("METAFLOW_SANDBOX_TESTS_BACKEND", "bubblewrap")
# These name their backends themselves, some of which take no image.
collect_ignore = ["test_flows_options.py", "test_flows_piped.py"] if CHOSEN in SUITES else []
if CHOSEN in SUITES and (image := SUITES[CHOSEN].image()):
    # Before it is read.
    os.environ.setdefault("METAFLOW_SANDBOX_TESTS_IMAGE", image)


# Imported by fixtures, not above: most tests run without the SDK.


@pytest.fixture(scope="session")
def registry() -> Iterator[Registry]:
    """Registries with the test image."""
    from .images import why_no_images
    from .registry import registry as serve

    reason = why_no_images()
    if reason:
        pytest.skip(reason)
    with serve() as serving:
        yield serving


@pytest.fixture(scope="session")
def podman(request: pytest.FixtureRequest) -> Iterator[Podman]:
    """A Podman service with the test image, that may pull from the fixture ``registry``."""
    from .engines import podman_service, why_no_podman

    reason = why_no_podman()
    if reason:
        pytest.skip(reason)
    with podman_service(insecure=request.getfixturevalue("registry").addresses.values()) as service:
        yield service


@pytest.fixture(scope="session", autouse=CHOSEN in SUITES)
def chosen_backend(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """The backend of a whole run of the tests, where one was asked for."""
    with (
        SUITES[CHOSEN].setting(tmp_path_factory.mktemp(CHOSEN), request) as variables,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in variables.items():
            patch.setenv(name, value)
        yield
