"""Programs of ours that run in this process's Python, with its import path and nothing else of it."""

from __future__ import annotations

import sys
from pathlib import Path

_PACKAGES = str(Path(__file__).parents[3])
_PROGRAM = (
    "import importlib, sys; sys.path += sys.argv[2].split(':'); "
    "importlib.import_module(sys.argv[1]).main(*sys.argv[3:])"
)


def same_python(module: str, *arguments: str) -> list[str]:
    """The command line that calls ``main`` of that module with the arguments."""
    path = ":".join([_PACKAGES, *filter(None, sys.path)])
    return [sys.executable, "-I", "-S", "-c", _PROGRAM, module, path, *arguments]
