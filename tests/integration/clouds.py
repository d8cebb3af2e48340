"""The stand-ins for clouds, of which tests ask the same, and what LifeFlow says of its bodies."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from .daytona import DaytonaServer
from .e2b import E2BServer
from .harness import FlowRun
from .stand_in import running


@dataclass(frozen=True)
class Cloud:
    """A running stand-in, and the fault that makes 15 minutes, a sandbox's time to live, pass in seconds."""

    name: str
    server: E2BServer | DaytonaServer
    hurried: Mapping[str, float]

    @property
    def settings(self) -> Mapping[str, str]:
        """What leads to it, and chooses it."""
        return {**self.server.settings, "METAFLOW_SANDBOX_BACKEND": self.name}


CLOUDS: Mapping[str, tuple[type[E2BServer | DaytonaServer], Mapping[str, float]]] = {
    "e2b": (E2BServer, {"second": 0.005}),
    "daytona": (DaytonaServer, {"minute": 0.3}),
}


@contextlib.contextmanager
def running_cloud(name: str) -> Iterator[Cloud]:
    """Run one of CLOUDS."""
    kind, hurried = CLOUDS[name]
    with running(kind) as server:
        yield Cloud(name, server, hurried)


def bodies(run: FlowRun) -> list[str]:
    """What the bodies of LifeFlow printed, in order of their numbers."""
    return sorted(re.findall(r"\] (body \d+ runs as attempt \d+)", run.output))


def all_once(run: FlowRun, width: int) -> bool:
    """Whether a run of LifeFlow is whole, and none of its bodies ran twice."""
    results = f"results {[10 * number for number in range(width)]}"
    expected = sorted(f"body {number} runs as attempt 0" for number in range(width))
    return run.returncode == 0 and results in run.output and bodies(run) == expected
