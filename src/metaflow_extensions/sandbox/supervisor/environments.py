"""The packages of a step: an environment out of the cache, made in a sandbox when nobody has yet."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..backends.interface import Backend, Layer, Process, Sandbox, SandboxSpec
from ..errors import PackagesFailed
from ..guest.conda import PREFIX
from ..packages.cache import PackageCache
from .archives import pack
from .inside import ENVIRONMENT, INSIDE, LAYERS
from .protocol import TaskSettings


@dataclass(frozen=True)
class Environment:
    """One that stays as long as it is used."""

    directory: Path
    key: str
    cache: PackageCache

    @property
    def place(self) -> PurePosixPath:
        """Where it is inside: a conda environment can be in the one place only that it was made for."""
        prefix = self.directory / PREFIX
        return PurePosixPath(prefix.read_text()) if prefix.exists() else INSIDE / ENVIRONMENT

    def layer(self) -> Layer:
        """The same for a backend that makes its sandboxes from it."""
        return Layer(self.key, self.archive(), LAYERS / self.key)

    @property
    def place_in_layer(self) -> PurePosixPath:
        """Where it is then."""
        return (
            LAYERS / self.key / self.place.relative_to(INSIDE) if INSIDE in self.place.parents else self.place
        )

    def archive(self) -> Path:
        """The same as a compressed archive, which is unpacked where the guest keeps what it is sent."""
        return self.cache.archive(self.key, lambda source, target: pack(source, target, self.place))


@dataclass(frozen=True)
class Workshop:
    """What a task lends to make its environment: sandboxes of its backend, and its log."""

    backend: Backend
    sandbox: Callable[[SandboxSpec], AbstractContextManager[Sandbox]]
    running: Callable[[Process], None]
    say: Callable[[str], None]
    cancelled: Callable[[], bool]


class Environments:
    """Those of a run. What could not be made for one task is not tried again for the others."""

    def __init__(self, cache: PackageCache, max_size: int) -> None:
        self._cache = cache
        self._max_size = max_size  # bytes
        self._failures: dict[str, PackagesFailed] = {}

    @contextlib.contextmanager
    def of(self, task: TaskSettings, argv: list[str], workshop: Workshop) -> Iterator[Environment | None]:
        """The task's environment, None for a step without packages.

        Raises PackagesFailed, and what opening a sandbox raises.
        """
        packages = task.packages
        if packages is None:
            yield None
            return

        def make(draft: Path) -> None:
            if packages.key in self._failures:
                raise self._failures[packages.key]
            try:
                # Not above: most tasks find what they need.
                from .build import build

                self._cache.shrink(self._max_size)
                build(task, argv, workshop, self._cache, draft, self._max_size)
            except PackagesFailed as error:
                self._failures[packages.key] = error
                raise

        with self._cache.environment(packages.key, packages.facts, make, workshop.cancelled) as directory:
            yield Environment(directory, packages.key, self._cache)
