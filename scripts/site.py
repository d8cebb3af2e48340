"""MkDocs' hook: pages made from files at the root, and links that leave docs/ shown as the paths they are."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# Pages of the site, and the files of the repository that they are.
PAGES = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md", "changes.md": "CHANGELOG.md"}
LINK = re.compile(r"\[([^\]]+)\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages whose text stands elsewhere, so that it is written once."""
    from mkdocs.structure.files import File

    for page, source in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn a page's links into links of the site."""
    uri = page.file.src_uri
    return site_links(markdown, PAGES.get(uri, f"docs/{uri}"), uri)


def site_links(markdown: str, source: str, page: str) -> str:
    """The text of the repository's file ``source``, with its links made for the site's page ``page``.

    A link to a file that is no page becomes its path in the repository.
    """
    pages = {name: f"{uri}" for uri, name in PAGES.items()}

    def link(found: re.Match[str]) -> str:
        text, target, anchor = found.groups()
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if path in pages or path.startswith("docs/"):
            place = pages.get(path, path.removeprefix("docs/"))
            return f"[{text}]({posixpath.relpath(place, posixpath.dirname(page) or '.')}{anchor or ''})"
        bare = text.strip("`")
        return f"`{path}`" if bare in (path, posixpath.basename(path)) else f"{text} (`{path}`)"

    return LINK.sub(link, markdown)
