"""Objects of a datastore that are loaded several at once, for whoever then asks for one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

from ..relay.services import Storage

AT_ONCE = 8
Found = tuple[str, "str | None", "dict[str, Any] | None"]  # path, local copy, metadata


class Loaded:
    """A storage of which some objects have been loaded; what else is asked of it goes to the real one."""

    def __init__(self, storage: Storage, found: Mapping[str, Found]) -> None:
        self._storage, self._found = storage, found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    @contextmanager
    def load_bytes(self, keys: Sequence[str]) -> Iterator[Iterator[Found]]:
        """(path, local copy, metadata) of each key."""
        if all(key in self._found for key in keys):
            yield iter([self._found[key] for key in keys])
            return
        with self._storage.load_bytes(keys) as loaded:
            yield loaded


@contextmanager
def loaded(storage: Storage, paths: Sequence[str]) -> Iterator[Any]:
    """The storage with these small objects loaded; the copies last as long as the context."""
    with ExitStack() as copies:

        def load(path: str) -> Found:
            # A call each: Metaflow's storage loads them one by one, or starts a process for many.
            for found in copies.enter_context(storage.load_bytes([path])):
                return found
            return path, None, None

        with ThreadPoolExecutor(AT_ONCE) as pool:
            found = list(pool.map(load, paths))
        yield Loaded(storage, {each[0]: each for each in found})
