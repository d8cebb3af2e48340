"""The package's sources, read as syntax trees: what is written, not what happens to be imported."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAME = "metaflow_extensions.sandbox"
PACKAGE = ROOT / "src" / "metaflow_extensions" / "sandbox"
TESTS = ROOT / "tests"
_IMPORTERS = {"__import__", "importlib.import_module", "import_module"}


def modules(*folders: str) -> list[Path]:
    """Every Python file of the package, or of some of its folders; none for a folder not written yet."""
    places = [PACKAGE / folder for folder in folders] if folders else [PACKAGE]
    return sorted(path for place in places for path in place.rglob("*.py") if "__pycache__" not in path.parts)


def short(path: Path) -> str:
    """A file's path from the root of the repository."""
    return path.relative_to(ROOT).as_posix()


def tree(path: Path) -> ast.Module:
    """A file's syntax tree."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imported(path: Path) -> Iterator[tuple[str, int]]:
    """Absolute dotted names of all that a file imports, anywhere in it, with the line."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            if node.level and not path.is_relative_to(PACKAGE):
                continue  # among tests
            if node.level:
                package = module_name(path).split(".")
                # A package's own name is the first level of its __init__.
                up = node.level - (1 if path.name == "__init__.py" else 0)
                origin = ".".join([*package[: len(package) - up], *([node.module] if node.module else [])])
            yield from ((f"{origin}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.Call) and called(node) in _IMPORTERS:
            yield from (
                (str(name.value), node.lineno) for name in node.args[:1] if isinstance(name, ast.Constant)
            )


def module_name(path: Path) -> str:
    """The dotted name under which a source file of the package is imported."""
    parts = path.relative_to(ROOT / "src").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def called(node: ast.Call) -> str:
    """The dotted name of what is called, as written; empty when it is no name."""
    parts: list[str] = []
    target: ast.expr = node.func
    while isinstance(target, ast.Attribute):
        parts.append(target.attr)
        target = target.value
    if not isinstance(target, ast.Name):
        return ""
    return ".".join([target.id, *reversed(parts)])


def is_within(name: str, package: str) -> bool:
    """Whether a dotted name is a package or something below it."""
    return name == package or name.startswith(package + ".")


def is_standard(name: str) -> bool:
    """Whether a dotted name is of the standard library."""
    return name.partition(".")[0] in sys.stdlib_module_names
