"""Names of platforms: conda's, which Metaflow has, and uv's."""

from __future__ import annotations

import pytest

from metaflow_extensions.sandbox.errors import UnsupportedOption
from metaflow_extensions.sandbox.packages.platforms import UV_NAMES, conda_name, of_sandboxes, uv_name


@pytest.mark.parametrize(
    ("system", "machine", "name"),
    [
        ("Linux", "x86_64", "linux-64"),
        ("Linux", "aarch64", "linux-aarch64"),
        ("Linux", "arm64", "linux-aarch64"),
        ("Darwin", "arm64", "osx-arm64"),
        ("Darwin", "x86_64", "osx-64"),
    ],
)
def test_every_platform_has_both_names(system: str, machine: str, name: str) -> None:
    """Guards packages for the wrong machine, which would be found out only inside."""
    assert conda_name(system, machine) == name
    assert uv_name(name) == UV_NAMES[name]


def test_choice_wins() -> None:
    """Guards METAFLOW_SANDBOX_TARGET_PLATFORM; without one, sandboxes that are not hosted run Linux."""
    assert of_sandboxes("linux-aarch64", hosted=True) == "linux-aarch64"
    assert of_sandboxes(None, hosted=False).startswith("linux-")
    assert uv_name("x86_64-manylinux_2_28") == "x86_64-manylinux_2_28"


@pytest.mark.parametrize("name", ["win-64", "", "x86_64 --index evil", "Linux"])
def test_unknown_names_are_refused(name: str) -> None:
    """Guards the setting's message."""
    with pytest.raises(UnsupportedOption, match="METAFLOW_SANDBOX_TARGET_PLATFORM"):
        uv_name(name)
