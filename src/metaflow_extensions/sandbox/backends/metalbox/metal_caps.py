"""Caps on Metal memory for every Python that a step starts; a copy stands as sitecustomize on its path.

MetalBox's own wrapper caps the service's first process, and a step is a child of that.
"""
# Every Python of the step imports this, and pathlib would be most of it.
# ruff: noqa: PTH120

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType
    from typing import Any

FUNCTIONS = {"METALBOX_METAL_MEMORY": "set_memory_limit", "METALBOX_METAL_CACHE": "set_cache_limit"}


class Capping:
    """Finds ``mlx.core`` once, to set its limits as soon as it has been imported."""

    @staticmethod
    def find_spec(name: str, _path: Sequence[str] | None = None, _target: Any = None) -> Any:
        """Other modules are found by others."""
        if name != "mlx.core":
            return None
        sys.meta_path.remove(Capping)
        spec = importlib.util.find_spec(name)
        if spec and spec.loader:
            execute = spec.loader.exec_module

            def execute_and_cap(module: ModuleType) -> None:
                execute(module)
                cap(module)

            spec.loader.exec_module = execute_and_cap  # type: ignore[method-assign]
        return spec


def cap(core: Any) -> None:
    """Set the limits, in bytes; before mlx 0.22 the functions were in ``mlx.core.metal`` alone."""
    for variable, function in FUNCTIONS.items():
        if variable in os.environ:
            set_limit = getattr(core, function, None) or getattr(core.metal, function)
            set_limit(int(os.environ[variable]))


def hand_on(here: str) -> None:
    """Run the sitecustomize that this one hides."""
    others = [entry for entry in sys.path if os.path.realpath(entry) != here]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", others)
    if spec and spec.loader:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


if __name__ == "sitecustomize":
    sys.meta_path.insert(0, Capping)
    hand_on(os.path.dirname(os.path.realpath(__file__)))
