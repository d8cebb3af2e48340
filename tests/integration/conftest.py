"""What several integration tests need and only some machines have.

METAFLOW_SANDBOX_TESTS_BACKEND=podman (or docker) runs tests/integration/test_flows*.py on an engine of the
tests' own, =nitrobox or =pybox on these; all with the test image unless METAFLOW_SANDBOX_TESTS_IMAGE names
another.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .engines import Podman
    from .registry import Registry

CHOSEN = os.environ.get("METAFLOW_SANDBOX_TESTS_BACKEND")
ON_AN_ENGINE = CHOSEN in ("docker", "podman")
# These name their backends themselves, some of which take no image.
IN_IMAGES = ON_AN_ENGINE or CHOSEN in ("nitrobox", "pybox")
collect_ignore = ["test_flows_options.py", "test_flows_piped.py"] if IN_IMAGES else []
if ON_AN_ENGINE:
    # Before it is read.
    os.environ.setdefault("METAFLOW_SANDBOX_TESTS_IMAGE", "localhost/metaflow-sandbox-test")
if CHOSEN in ("nitrobox", "pybox"):
    from .images import tree

    os.environ.setdefault("METAFLOW_SANDBOX_TESTS_IMAGE", str(tree()))


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


@pytest.fixture(scope="session", autouse=ON_AN_ENGINE)
def engine_of_all(request: pytest.FixtureRequest) -> Iterator[None]:
    """The engine for a whole run of the tests, where one was asked for."""
    url = request.getfixturevalue("podman").url
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONTAINER_HOST", url)
        patch.setenv("DOCKER_HOST", url)
        yield


@pytest.fixture(scope="session", autouse=CHOSEN == "pybox")
def pybox_of_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The program for a whole run of the tests, where it was asked for."""
    from .pybox import settings

    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings(tmp_path_factory.mktemp("pybox")).items():
            patch.setenv(name, value)
            # Flows are given what is set for the tests, and not what is set for who runs them.
            patch.setenv(name.replace("METAFLOW_SANDBOX_", "METAFLOW_SANDBOX_TESTS_"), value)
        yield
