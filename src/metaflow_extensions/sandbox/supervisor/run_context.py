"""What the tasks of a run share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..backends import owner
from ..backends.interface import Backend
from ..relay.services import Limits, Services
from .archives import Archives
from .environments import Environments
from .governor import Governor
from .journal import Journal
from .protocol import RunSettings
from .reaper import LABEL
from .watcher import Watcher

if TYPE_CHECKING:
    from ..relay.policy import TaskIdentity
    from .debug_files import DebugFiles


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
    environments: Environments
    journal: Journal = field(default_factory=Journal)

    @property
    def limits(self) -> Limits:
        """The run's limits, in bytes."""
        return Limits(artifact=self.settings.max_artifact << 20, task=self.settings.max_upload << 20)

    @property
    def labels(self) -> dict[str, str]:
        """By which its sandboxes are found, and it by its sandboxes."""
        return {**owner.labels(), LABEL: Path(self.settings.directory).name}

    def debug_files(self, task: TaskIdentity) -> DebugFiles | None:
        """Where METAFLOW_SANDBOX_DEBUG writes of a task, None where it is off."""
        if not self.settings.debug:
            return None
        # Most runs need it not, and every one would wait for its import.
        from .debug_files import DebugFiles

        return DebugFiles(self.settings.debug, task)
