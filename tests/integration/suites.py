"""Backends that METAFLOW_SANDBOX_TESTS_BACKEND=NAME runs the flow suite on, and what each needs for it.

An entry gives the image for all flows, None for a backend that takes none, and a context in which the
backend can be used, with the environment that leads to it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from metaflow_extensions.sandbox.backends.interface import Feature

Variables = Mapping[str, str]


@dataclass(frozen=True)
class Suite:
    """``setting`` gets a directory that lasts as long as the tests; memory and disk are in ``unit`` MiB."""

    image: Callable[[], str | None]
    setting: Callable[[Path, pytest.FixtureRequest], contextlib.AbstractContextManager[Variables]]
    unit: int = 1


NO_CONTAINER_HAS = frozenset(
    {
        Feature.HOST_PYTHON,
        Feature.LAYERS,
        Feature.FILES,
        Feature.GET,
        Feature.GPU,
        Feature.NETWORK_PUBLIC,
        Feature.EGRESS_LIST,
    }
)
"""What no container of this machine's gives; its refusal is what is tested."""

# Imported by those who need it: most tests run without the SDKs.


def made_tree() -> str:
    """The root file system made by the tests."""
    from .images import tree

    return str(tree())


@contextlib.contextmanager
def nothing(_directory: Path, _request: pytest.FixtureRequest) -> Iterator[Variables]:
    """For what needs nothing."""
    yield {}


@contextlib.contextmanager
def engine(_directory: Path, request: pytest.FixtureRequest) -> Iterator[Variables]:
    """A Podman service of the tests' own."""
    url = request.getfixturevalue("podman").url
    yield {"CONTAINER_HOST": url, "DOCKER_HOST": url}


@contextlib.contextmanager
def pybox(directory: Path, _request: pytest.FixtureRequest) -> Iterator[Variables]:
    """pybox with directories in place of what it would pull."""
    from .pybox import settings

    yield settings(directory)


@contextlib.contextmanager
def metalbox(directory: Path, _request: pytest.FixtureRequest) -> Iterator[Variables]:
    """MetalBox's server, or the stand-in for it."""
    from .metalbox import settings

    yield settings(directory)


def layout_for_machines() -> str | None:
    """An OCI layout for real machines; the stand-in takes any image for granted."""
    from .images import layout
    from .kvm import SETTING

    return str(layout()) if os.environ.get(SETTING) == "yes" else None


def layout_or_any() -> str:
    """The layout, or a name that the stand-in takes for the tests' image."""
    return layout_for_machines() or "localhost/metaflow-sandbox-test"


@contextlib.contextmanager
def boxlite(_directory: Path, _request: pytest.FixtureRequest) -> Iterator[Variables]:
    """A stand-in for its server, or with METAFLOW_SANDBOX_TESTS_KVM=yes real machines."""
    from .boxlite import boxlite_server

    if layout_for_machines():
        yield {}
        return
    with boxlite_server() as server:
        yield server.settings


def archive_for_machines() -> str:
    """The same as one file; the stand-in knows one image by name."""
    from .images import layout_archive

    return str(layout_archive()) if layout_for_machines() else "sandbox-test/python"


@contextlib.contextmanager
def microsandbox(_directory: Path, _request: pytest.FixtureRequest) -> Iterator[Variables]:
    """A stand-in for its cloud, or real machines; memory for an artifact of a GiB."""
    from .microsandboxes import stand_in

    memory = {"METAFLOW_SANDBOX_TESTS_MEMORY": "8192"}
    if layout_for_machines():
        yield memory
        return
    with stand_in() as cloud:
        yield {**cloud.settings, **memory}


@contextlib.contextmanager
def e2b(_directory: Path, _request: pytest.FixtureRequest) -> Iterator[Variables]:
    """The stand-in for E2B."""
    from .e2b import e2b_server

    with e2b_server() as server:
        # An artifact of 1 GiB does not fit into E2B's own default.
        yield {**server.settings, "METAFLOW_SANDBOX_TESTS_MEMORY": "6144"}


@contextlib.contextmanager
def daytona(_directory: Path, _request: pytest.FixtureRequest) -> Iterator[Variables]:
    """The stand-in for Daytona."""
    from .daytona import daytona_server

    with daytona_server() as server:
        # An artifact of 1 GiB does not fit into Daytona's own default.
        yield {**server.settings, "METAFLOW_SANDBOX_TESTS_MEMORY": "6144"}


SUITES = {
    "boxlite": Suite(layout_or_any, boxlite, unit=1024),
    "docker": Suite(lambda: "localhost/metaflow-sandbox-test", engine),
    "podman": Suite(lambda: "localhost/metaflow-sandbox-test", engine),
    "nitrobox": Suite(made_tree, nothing),
    "pybox": Suite(made_tree, pybox),
    "daytona": Suite(lambda: "test-image", daytona, unit=1024),
    "metalbox": Suite(lambda: None, metalbox),
    "microsandbox": Suite(archive_for_machines, microsandbox),
    "e2b": Suite(lambda: "localhost/metaflow-sandbox-test", e2b),
}
