"""The SDK's runtime of this process: over a home of this machine, or over a server.

BOXLITE_URL names a server that ``boxlite serve`` runs (BOXLITE_REST_URL, the SDK's own name, does as well),
BOXLITE_API_KEY holds its key and BOXLITE_REST_PATH_PREFIX its prefix.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boxlite
from boxlite import BoxliteError, NotFoundError, UnsupportedError

from ...errors import BackendUnavailable, CommandTimeout
from ..async_calls import AsyncCalls, loop
from ..kvm import check_machine, check_space
from ..local_processes import end, start_time
from . import registries, slots

URLS = ("BOXLITE_URL", "BOXLITE_REST_URL")
KEY = "BOXLITE_API_KEY"
PREFIX = "BOXLITE_REST_PATH_PREFIX"
SPACE = 1024  # MiB: an image and its disk
ANSWER = 10.0  # seconds for small questions
REMOVAL = 60.0  # seconds
_opening = threading.Lock()


@dataclass(frozen=True)
class Place:
    """Where boxes are: on the server at ``url``, or in a ``home`` of this machine, None for any."""

    url: str | None = None
    prefix: str | None = None
    home: Path | None = None

    @classmethod
    def chosen(cls, environ: Mapping[str, str] = os.environ) -> Place:
        """As the environment says."""
        url = next((environ[name] for name in URLS if environ.get(name)), None)
        return cls(url, environ.get(PREFIX) or None if url else None)


class Runtime:
    """The SDK's object, and the place that it has; ``home`` is None on a server."""

    def __init__(self, place: Place) -> None:
        self.calls: AsyncCalls = loop()
        self.url, self.prefix = place.url, place.prefix
        self._slot = None if place.url else _slot(place.home)
        self.home = self._slot.home if self._slot else None
        try:
            self.sdk: Any = self.calls.call(self._connected, ANSWER)
            if self.home:
                self._clear()
        except UnsupportedError as error:
            self.close()
            raise BackendUnavailable(
                f"BoxLite can't run virtual machines here ({error}): look at 'ls -l /dev/kvm', name a server "
                f"in {URLS[0]}, or choose another backend"
            ) from error
        except (BoxliteError, CommandTimeout) as error:
            self.close()
            raise BackendUnavailable(f"BoxLite can't be used {self}: {error}") from error

    def __str__(self) -> str:
        return f"at {self.url}" if self.url else f"in {self.home}"

    async def infos(self) -> Any:
        """Everything that it has."""
        return await self.sdk.list_info()

    async def runs(self, name: str) -> bool:
        """Whether the box of that name does."""
        info = await self.sdk.get_info(name)
        return info is not None and info.state.status not in ("stopped", "failed")

    def remove(self, name: str) -> None:
        """End a box and all that is left of it; idempotent. Raises BoxliteError or CommandTimeout."""
        info = self.calls.call(lambda: self.sdk.get_info(name), ANSWER)
        # Those of a box that outlived its process are not ended with it.
        processes = _tree(info.state.pid) if self.home and info and info.state.pid else {}
        with contextlib.suppress(NotFoundError):
            self.calls.call(lambda: self.sdk.remove(name, force=True), REMOVAL)
        for pid, started in processes.items():
            end(pid, started)

    def close(self) -> None:
        """Give the home back."""
        if "sdk" in vars(self):
            self.sdk.close()
            del self.sdk
        if self._slot:
            self._slot.release()
            self._slot = None

    async def _connected(self) -> Any:
        if self.url:
            key = os.environ.get(KEY)
            credential = boxlite.ApiKeyCredential(key) if key else None
            options = boxlite.BoxliteRestOptions(self.url, credential=credential, path_prefix=self.prefix)
            return boxlite.Boxlite.rest(options)
        return boxlite.Boxlite(boxlite.Options(home_dir=str(self.home), image_registries=registries.known()))

    def _clear(self) -> None:
        """The home was locked by nobody: what is in it is left of the dead."""
        for info in self.calls.call(self.infos, ANSWER):
            self.remove(info.id)


def runtime() -> Runtime:
    """This process's, as the environment says. Raises BackendUnavailable."""
    place = Place.chosen()
    if place.url is None:
        check_machine("boxlite")
        check_space("boxlite", slots.base(), SPACE)
    with _opening:
        return _runtime(place, slots.base(), os.environ.get(KEY), os.getpid())


@functools.cache
def _runtime(place: Place, _base: Path, _key: str | None, _pid: int) -> Runtime:
    found = Runtime(place)
    atexit.register(_at_exit, found)
    return found


def _at_exit(found: Runtime) -> None:
    """Let the SDK's threads go before the loop waits for them."""
    with contextlib.suppress(BoxliteError):
        found.close()


def _slot(home: Path | None) -> slots.Slot:
    slot = slots.take_home(home) if home else slots.take(slots.base())
    if slot is None:
        raise BackendUnavailable(f"another process uses BoxLite's home {home}: wait until it has ended")
    return slot


def _tree(pid: int) -> dict[int, str]:
    """The process and its descendants with their times of start; empty where there is no /proc."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(entry.name)] = int(
                (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[1]
            )
    wanted = {pid} & parents.keys()
    while more := {child for child, parent in parents.items() if parent in wanted} - wanted:
        wanted |= more
    found = {}
    for each in wanted:
        with contextlib.suppress(OSError):
            found[each] = start_time(each)
    return found
