"""Small artifacts that are likely to be read next are loaded ahead, several in one round trip."""

from __future__ import annotations

import itertools
import json
import posixpath
import re
import threading
from collections import Counter
from typing import Any, Callable, Dict, List, Optional, Set, Tuple

LISTING = re.compile(r".*/\d+\.data\.json")  # Metaflow's list of a task's artifacts
MAX_LISTINGS = 4 * 1024 * 1024  # bytes
SMALL = 16 * 1024  # bytes of an artifact before compression, as its task's list says
AT_ONCE = 64
MAX_READY = 1024  # objects that were loaded and not asked for

Object = Tuple[bool, Optional[Dict[str, Any]], bytes]  # found, metadata, content


class ReadAhead:
    """Guesses from what was read which small artifacts will be: those whose names follow, in natural order.

    Of several tasks, a join's inputs, each name comes once for every task before the next. ``load_all`` loads
    objects by their paths, in one round trip. At most twice as many are loaded as were asked for, whatever
    their order.
    """

    def __init__(self, load_all: Callable[[str, List[str]], List[Object]]) -> None:
        self._load_all = load_all
        self._listings: Tuple[bytes, ...] = ()
        self._order: List[str] = []
        self._place: Dict[str, int] = {}
        self._left: Dict[str, int] = {}  # how many tasks have it that have not asked for it
        self._asked = self._loaded = 0
        self._had: Set[str] = set()
        self._ready: Dict[Tuple[str, str], Object] = {}
        self._reading = threading.Lock()

    def learn(self, *listings: bytes) -> None:
        """Remember tasks' lists of artifacts, in place of the last ones; of very many, the first."""
        sizes = itertools.accumulate(map(len, listings))
        count = sum(size <= MAX_LISTINGS for size in sizes)
        with self._reading:
            self._listings = listings[:count] or (b"{}",)

    def take(self, store: str, path: str) -> Optional[Object]:
        """The object, when it is one of those that can be had ahead; None for all others."""
        # Nobody waits: another thread may be reading, and may have been when this process was forked.
        if not self._reading.acquire(blocking=False):
            return None
        try:
            key = (store, path)
            if key in self._ready:
                self._asked += 1
                return self._given(key)
            paths = self._following(path)
            if not paths:
                return None
            loaded = self._load_all(store, paths)
            self._loaded += len(paths)
            self._had.update(posixpath.basename(each) for each in paths)
            if len(self._ready) > MAX_READY:
                self._ready.clear()
            items = zip(paths, loaded)  # noqa: B905 -- Python 3.8 has no strict=
            self._ready.update({(store, each): item for each, item in items if item[0]})
            return self._given(key) if key in self._ready else loaded[0]
        finally:
            self._reading.release()

    def _given(self, key: Tuple[str, str]) -> Object:
        """What is ready, which stays so for further tasks that have it."""
        name = posixpath.basename(key[1])
        self._left[name] -= 1
        return self._ready[key] if self._left[name] > 0 else self._ready.pop(key)

    def _following(self, path: str) -> List[str]:
        """The path and some that come after it; nothing for what is not a small artifact."""
        self._parse()
        folder, name = posixpath.dirname(posixpath.dirname(path)), posixpath.basename(path)
        start = self._place.get(name)
        if start is None:
            return []
        self._asked += 1
        count = max(1, min(2 * self._asked - self._loaded - 1, AT_ONCE))
        following = (each for each in self._order[start + 1 :] if each not in self._had)
        names = [name, *itertools.islice(following, count - 1)]
        return [posixpath.join(folder, each[:2], each) for each in names]

    def _parse(self) -> None:
        if not self._listings:
            return
        named: List[Tuple[Any, int, str]] = []
        try:
            for number, listing in enumerate(map(json.loads, self._listings)):
                sizes = {name: facts["size"] for name, facts in listing["info"].items()}
                small = [name for name in listing["objects"] if sizes[name] <= SMALL]
                named += [(natural(name), number, listing["objects"][name]) for name in small]
            # What several tasks have is one object.
            self._left = Counter(key for _, _, key in named)
            self._order = list(dict.fromkeys(key for _, _, key in sorted(named)))
        except (ValueError, KeyError, TypeError, AttributeError):
            self._order, self._left = [], {}  # of another version of Metaflow: one by one, then
        self._place = {key: place for place, key in enumerate(self._order)}
        self._listings = ()
        self._asked = self._loaded = 0
        self._had.clear()
        self._ready.clear()


def natural(name: str) -> List[Tuple[int, str]]:
    """A key that sorts part2 before part10, as loops over numbered artifacts read them."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", name)]
