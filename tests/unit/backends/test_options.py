"""Options that a backend can't honour are refused before anything is started."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from metaflow_extensions.sandbox.backends.interface import (
    Feature,
    Isolation,
    Mount,
    PythonEnvironment,
    SandboxSpec,
)
from metaflow_extensions.sandbox.backends.options import check_options, require_isolation, unsupported
from metaflow_extensions.sandbox.errors import UnsupportedOption
from metaflow_extensions.sandbox.testing.scripted import ScriptedBackend

NEEDS: list[tuple[Feature, dict[str, Any]]] = [
    (Feature.IMAGE, {"image": "debian:12"}),
    (Feature.CPU_LIMIT, {"cpu": 0.5}),
    (Feature.MEMORY_LIMIT, {"memory": 64}),
    (Feature.DISK_LIMIT, {"disk": 64}),
    (Feature.PROCESS_LIMIT, {"processes": 8}),
    (Feature.GPU, {"gpu": 1}),
    (Feature.NETWORK_OFF, {"network": "none"}),
    (Feature.NETWORK_HOST, {"network": "host"}),
    (Feature.NETWORK_PUBLIC, {"network": "public"}),
    (Feature.EGRESS_LIST, {"network": ("example.org",)}),
    (Feature.MOUNT, {"mounts": [Mount(Path("/srv"), PurePosixPath("/srv"))]}),
    (Feature.HOST_PYTHON, {"python": PythonEnvironment(Path("/usr/bin/python3"))}),
]


def with_features(*features: Feature) -> ScriptedBackend:
    """A backend that declares exactly these features."""
    backend = ScriptedBackend()
    backend.features = frozenset(features)
    return backend


@pytest.mark.parametrize(("feature", "change"), NEEDS, ids=[feature.name for feature, _ in NEEDS])
def test_each_option_needs_its_feature_and_no_other(feature: Feature, change: dict[str, Any]) -> None:
    """An option must be refused without its feature, and accepted with it."""
    spec = SandboxSpec(**{"network": "none", **change})
    network = () if "network" in change else (Feature.NETWORK_OFF,)
    check_options(spec, with_features(feature, *network), "fake")
    others = [other for other in Feature if other is not feature]
    with pytest.raises(UnsupportedOption, match=f"'fake'.*{next(iter(change))}=.*{feature.name}"):
        check_options(spec, with_features(*others), "fake")


def test_every_problem_is_named_at_once() -> None:
    """One refusal after another makes the user mend a flow five times."""
    spec = SandboxSpec(image="x", memory=1, gpu=2, network="public")
    problems = unsupported(spec, with_features())
    assert [problem.partition("=")[0] for problem in problems] == ["memory", "image", "gpu", "network"]


@pytest.mark.parametrize(
    "change",
    [
        {"cpu": 0},
        {"memory": -1},
        {"disk": 0},
        {"processes": 0},
        {"lifetime": 0},
        {"cpu": float("nan")},
        {"memory": "512"},
        {"gpu": -1},
        {"gpu": 0.5},
        {"network": "internet"},
        {"network": ""},
        {"network": ()},
    ],
    ids=str,
)
def test_nonsense_is_refused_by_the_most_capable_backend(change: dict[str, Any]) -> None:
    """A limit of zero or a misspelt network must not mean "no limit" or "any network"."""
    with pytest.raises(UnsupportedOption, match=next(iter(change))):
        check_options(SandboxSpec(**change), with_features(*Feature), "fake")


def test_no_gpu_is_not_a_gpu() -> None:
    """A flow that says gpu=0 must run on a backend without GPUs."""
    assert unsupported(SandboxSpec(gpu=0), with_features(Feature.NETWORK_OFF)) == []


@pytest.mark.parametrize("wanted", [None, "process", "container"])
def test_isolation_as_strong_as_wanted_is_accepted(wanted: str | None) -> None:
    """A stronger wall than asked for is no problem."""
    backend = with_features()
    backend.isolation = Isolation.CONTAINER
    require_isolation(backend, "fake", wanted)


def test_weaker_isolation_is_refused() -> None:
    """A step that asked for a virtual machine must never run in a container."""
    backend = with_features()
    backend.isolation = Isolation.CONTAINER
    with pytest.raises(UnsupportedOption, match=r"'vm'.*'fake'.*'container'"):
        require_isolation(backend, "fake", "vm")


def test_unknown_isolation_lists_the_classes() -> None:
    """A misspelt class must not be taken for the weakest."""
    with pytest.raises(UnsupportedOption, match="process, container, vm"):
        require_isolation(with_features(), "fake", "VMs")
