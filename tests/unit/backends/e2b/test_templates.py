"""What templates are made from, and their names."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("e2b")

from metaflow_extensions.sandbox.backends.default_image import DEFAULT_IMAGE
from metaflow_extensions.sandbox.backends.e2b.templates import Recipe, wanted
from metaflow_extensions.sandbox.backends.interface import SandboxSpec
from metaflow_extensions.sandbox.errors import UnsupportedOption


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, Recipe(DEFAULT_IMAGE, 2, 1024, None)),
        ({"image": "a:1", "cpu": 1, "memory": 128}, Recipe("a:1", 1, 128, None)),
        ({"cpu": 4.0, "options": {"min_free_disk": 9}}, Recipe(DEFAULT_IMAGE, 4, 1024, 9)),
        ({"options": {"template": "mine"}}, "mine"),
    ],
)
def test_what_is_wanted(changes: dict[str, Any], expected: object) -> None:
    """Guards E2B's own defaults, which a template's name is made from."""
    assert wanted(SandboxSpec(**changes)) == expected


@pytest.mark.parametrize(
    "changes", [{"cpu": 34}, {"memory": 129}, {"cpu": 1, "options": {"template": "mine"}}]
)
def test_what_is_refused(changes: dict[str, Any]) -> None:
    """Guards against sizes that E2B would refuse after a build was asked for."""
    with pytest.raises(UnsupportedOption):
        wanted(SandboxSpec(**changes))


def test_names_tell_recipes_and_keys_apart() -> None:
    """Guards against another size or image of the same name, and a name that a stranger can publish."""
    recipes = [
        Recipe("a", 1, 128, None),
        Recipe("a", 2, 128, None),
        Recipe("b", 1, 128, None),
        Recipe("a", 1, 128, 0),
    ]
    names = {recipe.name(key) for recipe in recipes for key in ("one", "two")}
    assert len(names) == 8
    assert recipes[0].name("one") == Recipe("a", 1, 128, None).name("one")
    assert all("one" not in name and len(name) <= 40 for name in names)
