"""``backends``: which there are, what isolates, what each can do, and how to install what is missing."""

from __future__ import annotations

import argparse
from typing import Any

from ..backends import registry
from ..backends.interface import Backend, Isolation
from .asking import Answer, ask
from .sandboxes import DEADLINE
from .table import show, show_json

COLUMNS = ("NAME", "ISOLATION", "INSTALLED", "FEATURES", "WHAT IT IS")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument("--json", action="store_true", help="one JSON object, see docs/commands.md")


def main(options: argparse.Namespace) -> int:
    """Print them."""
    answers = ask(registry.names(), registry.load, DEADLINE)
    described = [_described(answer) for answer in answers]
    if options.json:
        show_json({"backends": described})
        return 0
    show(
        COLUMNS,
        [
            [
                its["name"],
                its["isolation"] or "-",
                "yes" if its["installed"] else its["install"] or its["problem"],
                " ".join(its["features"]) or "-",
                its["summary"],
            ]
            for its in described
        ],
    )
    return 0


def _described(answer: Answer[Backend]) -> dict[str, Any]:
    name, backend = answer.backend, answer.value
    built_in = registry.BUILT_IN.get(name)
    return {
        "name": name,
        "summary": built_in.summary if built_in else "of another package",
        "installed": backend is not None,
        "install": install_command(built_in),
        "isolation": Isolation(backend.isolation).label if backend else None,
        "features": sorted(feature.name.lower() for feature in backend.features) if backend else [],
        "problem": answer.problem,
    }


def install_command(built_in: registry.BuiltIn | None) -> str | None:
    """What installs the SDK of a built-in backend; None where there is none, or another package brings it."""
    return f"pip install 'metaflow-sandbox[{built_in.extra}]'" if built_in and built_in.extra else None
