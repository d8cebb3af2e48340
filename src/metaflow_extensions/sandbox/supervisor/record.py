"""What a task's metadata says of its sandbox: what it was, how long each phase took, what it used."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping

from ..backends.interface import Backend, SandboxSpec
from ..units import on_one_line
from .journal import Phase
from .protocol import TaskSettings

Values = dict[str, str]
# Each phase of a task's time, and the moments between which it is.
PHASES = {
    "queue": ("requested", "opening"),
    "open": ("opening", "opened"),
    "boot": ("opened", "started"),
    "run": ("started", "closing"),
    "close": ("closing", "closed"),
}
REFUSALS_KEPT = 20
REFUSAL_LENGTH = 300  # characters
OUTCOME_LENGTH = 1000  # characters


class TaskRecord:
    """Collects the facts of one task; times are of the monotonic clock."""

    def __init__(self) -> None:
        self._times = {"requested": time.monotonic()}
        self._epoch = time.time() - time.monotonic()
        self._by_guest: Mapping[str, float | None] = {}
        self._by_backend: Mapping[str, float] = {}
        self._refused: list[str] = []
        self.refusals = 0
        self.outcome = ""

    def mark(self, moment: str) -> None:
        """Note that something happens now: opening, opened, started, closing, closed."""
        self._times[moment] = time.monotonic()

    def has(self, moment: str) -> bool:
        """Whether that has happened."""
        return moment in self._times

    def seconds(self, start: str, end: str) -> float:
        """Between two moments; 0 where one has not been noted, or the guest was faster than the launcher."""
        if not (self.has(start) and self.has(end)):
            return 0.0
        return max(0.0, self._times[end] - self._times[start])

    def phase(self, name: str) -> tuple[str, str]:
        """The moments between which a phase is; a kept sandbox is idle from there on."""
        return ("started", "kept") if name == "run" and self.has("kept") else PHASES[name]

    def measured(self, peak_memory: float | None, cpu_time: float | None) -> None:
        """Take the guest's figures, in MiB and seconds; None is not known."""
        self._by_guest = {"peak_memory": peak_memory, "cpu_time": cpu_time}

    def measured_by_backend(self, stats: Mapping[str, float]) -> None:
        """Take the backend's figures, which go before: no step says them, and they cover the sandbox."""
        self._by_backend = stats

    def refused(self, reason: str) -> None:
        """Count a refusal, and keep the words of the first ones."""
        self.refusals += 1
        if len(self._refused) < REFUSALS_KEPT:
            self._refused.append(on_one_line(reason[:REFUSAL_LENGTH]))

    def figures(self) -> dict[str, float | None]:
        """What is known of peak_memory (MiB) and cpu_time (seconds)."""
        return {**self._by_guest, **self._by_backend}

    def phases_since_epoch(self) -> list[Phase]:
        """The phases that are over."""
        return [
            Phase(name, self._times[start] + self._epoch, self._times[end] + self._epoch)
            for name, (start, end) in ((name, self.phase(name)) for name in PHASES)
            if start in self._times and end in self._times
        ]

    def startup(self) -> Values:
        """The field to register when the step starts, for cards, which are made before its end."""
        return {"sandbox-startup": self._phases("queue", "open", "boot")}

    def measurements(self) -> Values:
        """The fields to register once the sandbox is closed."""
        values = {"sandbox-timings": self._phases(*PHASES)}
        figures = self.figures()
        if figures.get("peak_memory") is not None:
            values["sandbox-peak-memory-mib"] = f"{figures['peak_memory']:.1f}"
        if figures.get("cpu_time") is not None:
            values["sandbox-cpu-seconds"] = f"{figures['cpu_time']:.3f}"
        if self.refusals:
            values["sandbox-refusals"] = str(self.refusals)
            values["sandbox-refused"] = json.dumps(self._refused)
        if self.outcome:
            values["sandbox-outcome"] = on_one_line(self.outcome[:OUTCOME_LENGTH])
        return values

    def _phases(self, *names: str) -> str:
        return json.dumps({name: round(self.seconds(*self.phase(name)), 4) for name in names})


def identity(name: str, backend: Backend, sandbox_id: str, spec: SandboxSpec) -> Values:
    """The fields to register when the step starts; of the limits those that were asked for."""
    asked = {name: getattr(spec, name) for name in ("cpu", "memory", "disk", "gpu", "lifetime")}
    limits = {name: value for name, value in asked.items() if value is not None}
    return {
        "sandbox-backend": name,
        "sandbox-id": sandbox_id,
        "sandbox-isolation": backend.isolation.label,
        "sandbox-image": spec.image or getattr(backend, "default_image", ""),
        "sandbox-network": network_label(spec),
        "sandbox-limits": json.dumps(limits),
    }


def packages_of(task: TaskSettings) -> Values:
    """The fields of a step that has packages of its own: the environment's name, and what it is made of."""
    if task.packages is None:
        return {}
    return {"sandbox-environment": task.packages.key, "sandbox-lock": task.packages.recorded}


def network_label(spec: SandboxSpec) -> str:
    """The network as one word or a list of hosts."""
    return spec.network if isinstance(spec.network, str) else ",".join(spec.network)


def launcher_facts(datastore: str, env: Mapping[str, str]) -> Values:
    """The fields in which a task may only repeat what the launcher knows, as Metaflow writes them.

    ``datastore`` is TYPE@ROOT, ``env`` the step's environment.
    """
    kind, _, root = datastore.partition("@")
    facts = {"ds-type": kind, "ds-root": root}
    if env.get("METAFLOW_CODE_SHA"):
        code = {
            "ds_type": env.get("METAFLOW_CODE_DS"),
            "sha": env["METAFLOW_CODE_SHA"],
            "location": env.get("METAFLOW_CODE_URL"),
            "metadata": env.get("METAFLOW_CODE_METADATA"),
        }
        facts["code-package"] = json.dumps(code)
    return facts
