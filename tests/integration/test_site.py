"""The documentation's site, built as `make docs` builds it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FETCHED = re.compile(
    r"<(?:script|img|iframe|source)\b[^>]*\bsrc=.?https?:|<link\b[^>]*stylesheet[^>]*https?:"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; a warning is a failure."""
    pytest.importorskip("material", reason="no mkdocs-material here: pip install 'metaflow-sandbox[docs]'")
    target = tmp_path_factory.mktemp("site")
    # Named, so that what is built here is not what a proxy would have given.
    env = {**os.environ, "https_proxy": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(target)]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


def test_every_page_is_built(site: Path) -> None:
    """A page without a place on the site is not read; a README that is not its start is written twice."""
    pages = {path.relative_to(ROOT / "docs").with_suffix("") for path in (ROOT / "docs").rglob("*.md")}
    built = {path.relative_to(site).with_suffix("") for path in site.rglob("*.html")}
    assert pages - built == set()
    assert "Run chosen" in (site / "index.html").read_text(encoding="utf-8")


def test_readers_fetch_nothing_from_elsewhere(site: Path) -> None:
    """A font or a script from elsewhere tells others who reads what, and fails without a network."""
    texts = {path.name: path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    assert [name for name, text in texts.items() if FETCHED.search(text)] == []
