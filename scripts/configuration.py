"""Write the tables of docs/configuration.md that follow from the code: configuration.py [--check]."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "metaflow_extensions" / "sandbox"
PAGE = ROOT / "docs" / "configuration.md"
PREFIX = "METAFLOW_"
PARAMETER = re.compile(r"^(\w+) : (.+?), optional", re.MULTILINE)


def options() -> Iterator[tuple[str, str, str]]:
    """(name, type, meaning) of each option, from the docstring that users see in their editor."""
    tree = ast.parse((PACKAGE / "plugins" / "sandbox_decorator.py").read_text(encoding="utf-8"))
    (decorator,) = (
        node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "SandboxDecorator"
    )
    parts = PARAMETER.split(ast.get_docstring(decorator) or "")
    for name, kind, rest in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        yield name, kind, " ".join(rest.partition("\n")[2].split())


def settings() -> Iterator[tuple[str, str, str]]:
    """(name, default, meaning) of each setting that is no option's default; its meaning is the comment."""
    names = {name for name, _, _ in options()}
    comment: list[str] = []
    for line in (PACKAGE / "config" / "__init__.py").read_text(encoding="utf-8").splitlines():
        found = re.match(r'(SANDBOX_\w+) = from_conf\("\w+"(?:, "(.*)")?\)', line)
        if line.startswith("# "):
            comment.append(line[2:])
        elif found:
            if found[1].removeprefix("SANDBOX_").lower() not in names:
                yield PREFIX + found[1], found[2] or "", " ".join(comment)
            comment = []
        else:
            comment = []


def tables() -> dict[str, str]:
    """The tables by the names of their markers."""
    code = [f"| `{name}` | `{kind}` | {text} |" for name, kind, text in options()]
    rows = [f"| `{name}` | {f'`{value}`' if value else ''} | {text} |" for name, value, text in settings()]
    return {
        "options": "\n".join(["| option | type | meaning |", "| --- | --- | --- |", *code]),
        "settings": "\n".join(["| setting | default | meaning |", "| --- | --- | --- |", *rows]),
    }


def filled(page: str) -> str:
    """The page with its tables as the code has them. Raises ValueError where a marker is missing."""
    for name, table in tables().items():
        marked = re.compile(rf"(<!-- from the code: {name} -->\n).*?(\n<!-- end -->)", re.DOTALL)
        page, count = marked.subn(lambda found, table=table: f"{found[1]}\n{table}\n{found[2]}", page)
        if count != 1:
            raise ValueError(f"{PAGE} has {count} places marked <!-- from the code: {name} -->, not one")
    return page


def main(arguments: list[str]) -> int:
    """Write the page; with --check only say whether it would change."""
    page = PAGE.read_text(encoding="utf-8")
    fresh = filled(page)
    if "--check" in arguments:
        return int(fresh != page)
    PAGE.write_text(fresh, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
