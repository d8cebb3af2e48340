"""The documentation says what the code says: errors, messages, options, settings, pages."""

from __future__ import annotations

import ast
import importlib.util
import re
from types import ModuleType

import pytest

from metaflow_extensions.sandbox import errors
from metaflow_extensions.sandbox.backends.built_in import BUILT_IN
from metaflow_extensions.sandbox.plugins.attributes import ATTRIBUTES

from .sources import ROOT, modules, tree

DOCS = ROOT / "docs"
TROUBLESHOOTING = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
CLASSES = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, errors.SandboxError)
]
SETTING = re.compile(r"METAFLOW_SANDBOX_[A-Z0-9_]*[A-Z0-9]")
# Set by the launcher for what it starts, or read by tests alone: nobody else sets them.
OURS = {
    "METAFLOW_SANDBOX_CARD_ROOT",
    "METAFLOW_SANDBOX_DIRECT_ROOT",
    "METAFLOW_SANDBOX_GUEST",
    "METAFLOW_SANDBOX_METADATA_INFO",
    "METAFLOW_SANDBOX_NAME",
    "METAFLOW_SANDBOX_PATH",
    "METAFLOW_SANDBOX_RECORDS",
    "METAFLOW_SANDBOX_FILES",
    "METAFLOW_SANDBOX_RELAY",
    "METAFLOW_SANDBOX_S3_CREDENTIALS",
    "METAFLOW_SANDBOX_S3_LIBRARIES",
    "METAFLOW_SANDBOX_SCRIPT",
}


def script(name: str) -> ModuleType:
    """A script of the repository, as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def messages() -> list[str]:
    """Every text in the package, with … for what is put in."""
    found = []
    for path in modules():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.JoinedStr):
                parts = [str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values]
                found.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(re.sub(r"\{\w+[^}]*\}", "…", node.value))
    return [" ".join(text.split()) for text in found]


@pytest.mark.parametrize("error", CLASSES, ids=lambda error: error.__name__)
def test_every_error_has_an_entry(error: type) -> None:
    """An error without an entry leaves who meets it with its message alone."""
    assert f"\n## {error.__name__}\n" in TROUBLESHOOTING
    assert f"docs/troubleshooting.md#{error.__name__.lower()}." in (error.__doc__ or "")


def test_every_entry_is_of_an_error() -> None:
    """An entry for a class long gone sends its reader the wrong way."""
    headings = set(re.findall(r"^## (\S+)$", TROUBLESHOOTING, re.MULTILINE))
    assert headings == {error.__name__ for error in CLASSES}


def test_messages_are_the_code_s() -> None:
    """A message that is worded otherwise is not found by who searches the page for it."""
    code = messages()
    rows = re.findall(r"^\| (`.+?`) \| \S", TROUBLESHOOTING, re.MULTILINE)
    quoted = [text for row in rows for text in re.findall(r"`([^`]+)`", row)]
    assert len(quoted) > 30
    patterns = {text: re.compile(".*".join(map(re.escape, text.split("…")))) for text in quoted}
    assert [text for text, found in patterns.items() if not any(found.search(said) for said in code)] == []


def test_configuration_is_the_code_s() -> None:
    """A table written by hand is wrong after the next option: run scripts/configuration.py."""
    configuration = script("configuration")
    page = (DOCS / "configuration.md").read_text(encoding="utf-8")
    assert configuration.filled(page) == page
    assert [name for name, _, _ in configuration.options()] == list(ATTRIBUTES)
    assert [name for name, _, meaning in configuration.settings() if not meaning] == []


def test_every_setting_is_documented() -> None:
    """A setting that only the source knows might as well not be."""
    code = {name for path in modules() for name in SETTING.findall(path.read_text(encoding="utf-8"))}
    page = "".join(path.read_text(encoding="utf-8") for path in DOCS.rglob("*.md"))
    defaults = {f"METAFLOW_SANDBOX_{name.upper()}" for name in ATTRIBUTES}  # the page says how they are made
    assert sorted(name for name in code - OURS - defaults if name not in page) == []
    assert OURS - code == set()


def test_every_backend_has_a_quick_start() -> None:
    """A backend whose first command has to be guessed is not tried."""
    pages = {"podman": "docker"}
    texts = {
        name: (DOCS / "backends" / f"{pages.get(name, name)}.md").read_text(encoding="utf-8")
        for name in BUILT_IN
    }
    assert [name for name, text in texts.items() if "```console\n" not in text] == []
    assert [name for name, text in texts.items() if "isolates what" not in text] == []


def test_every_page_is_in_the_navigation() -> None:
    """A page that no menu names is found by nobody; MkDocs says so only when the site is built."""
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
    named = set(re.findall(r": (\S+\.md)$", navigation, re.MULTILINE))
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert named == pages | set(script("site").PAGES)


def test_no_page_fetches_anything() -> None:
    """An image or a script from elsewhere tells others who reads, and fails without a network."""
    texts = {path: path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *DOCS.rglob("*.md")]}
    remote = re.compile(r"!\[[^\]]*\]\(https?:|<(?:img|script|link|iframe)\b")
    assert [path.name for path, text in texts.items() if remote.search(text)] == []


@pytest.mark.parametrize(
    ("source", "page", "text", "link"),
    [
        ("README.md", "index.md", "[S](docs/speed.md)", "[S](speed.md)"),
        ("docs/a.md", "a.md", "[R](../README.md#x)", "[R](index.md#x)"),
        ("docs/backends/e2b.md", "backends/e2b.md", "[S](../speed.md)", "[S](../speed.md)"),
        ("docs/a.md", "a.md", "[`b.py`](../src/b.py)", "`src/b.py`"),
        ("docs/a.md", "a.md", "[it](../src/b.py)", "it (`src/b.py`)"),
        ("docs/a.md", "a.md", "[w](https://example.org/a)", "[w](https://example.org/a)"),
    ],
)
def test_links_are_made_for_the_site(source: str, page: str, text: str, link: str) -> None:
    """A link that is right in the repository leads nowhere on the site unless it is turned."""
    assert script("site").site_links(text, source, page) == link
