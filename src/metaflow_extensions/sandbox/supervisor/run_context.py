"""What the tasks of a run share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..backends.interface import Backend
from ..relay.services import Limits, Services
from .archives import Archives
from .governor import Governor
from .protocol import RunSettings
from .watcher import Watcher


@dataclass(frozen=True)
class RunContext:
    """Settings, services and backends of one run."""

    settings: RunSettings
    watcher: Watcher
    services: Callable[[], Services]
    backend: Callable[[str], Backend]
    code: Callable[[], Path]
    archives: Archives
    governor: Callable[[str], Governor]

    @property
    def limits(self) -> Limits:
        """The run's limits, in bytes."""
        return Limits(artifact=self.settings.max_artifact << 20, task=self.settings.max_upload << 20)
