"""Artifacts that are read one after the other are asked for ahead, several in one round trip."""

from __future__ import annotations

import json
import posixpath
import re
from typing import Any, Callable, Dict, List, Optional, Tuple

LISTING = re.compile(r".*/\d+\.data\.json")  # Metaflow's list of a task's artifacts
MAX_LISTING = 4 * 1024 * 1024  # bytes
SMALL = 16 * 1024  # bytes of an artifact before compression, as its task's list says
AT_ONCE = 64

Object = Tuple[bool, Optional[Dict[str, Any]], bytes]  # found, metadata, content


class ReadAhead:
    """Knows in which order the small artifacts of a task stand, and what was asked for last.

    ``load_all`` loads objects by their paths, in one round trip. Nothing is asked for ahead before the
    second artifact in order, and then at most as much as was asked for before.
    """

    def __init__(self, load_all: Callable[[str, List[str]], List[Object]]) -> None:
        self._load_all = load_all
        self._listing = b""
        self._order: List[str] = []
        self._place: Dict[str, int] = {}
        self._expected = -1
        self._count = 1
        self._ready: Dict[Tuple[str, str], Object] = {}

    def learn(self, listing: bytes) -> None:
        """Remember a task's list of artifacts, in place of the last one."""
        self._listing = listing if len(listing) <= MAX_LISTING else b"{}"

    def take(self, store: str, path: str) -> Optional[Object]:
        """The object, when it is one of those that can be had ahead; None for all others."""
        key = (store, path)
        if key not in self._ready:
            self._ready.clear()  # whoever asks for another does not read in order
            paths = self._following(path)
            if not paths:
                return None
            loaded = zip(paths, self._load_all(store, paths))  # noqa: B905 -- Python 3.8 knows no strict=
            self._ready.update({(store, each): item for each, item in loaded})
        self._expected = self._place.get(posixpath.basename(path), -2) + 1
        return self._ready.pop(key)

    def _following(self, path: str) -> List[str]:
        """The path and those that come after it; nothing for what is not a small artifact."""
        self._parse()
        folder, name = posixpath.dirname(posixpath.dirname(path)), posixpath.basename(path)
        start = self._place.get(name)
        if start is None:
            return []
        self._count = min(2 * self._count, AT_ONCE) if start == self._expected else 1
        names = self._order[start : start + self._count]
        return [posixpath.join(folder, each[:2], each) for each in names]

    def _parse(self) -> None:
        if not self._listing:
            return
        try:
            listing = json.loads(self._listing)
            sizes = {name: facts["size"] for name, facts in listing["info"].items()}
            small = [key for name, key in listing["objects"].items() if sizes[name] <= SMALL]
        except (ValueError, KeyError, TypeError, AttributeError):
            small = []  # of another version of Metaflow: one by one, then
        self._listing = b""
        self._order = list(dict.fromkeys(small))
        self._place = {key: place for place, key in enumerate(self._order)}
