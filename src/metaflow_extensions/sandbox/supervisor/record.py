"""What a task's metadata says of its sandbox: what it was, how long each phase took, what it used."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping

from ..backends.interface import Backend, SandboxSpec
from .protocol import TaskSettings

Values = dict[str, str]


class TaskRecord:
    """Collects the facts of one task; times are of the monotonic clock."""

    def __init__(self) -> None:
        self._times = {"requested": time.monotonic()}
        self._by_guest: Mapping[str, float | None] = {}
        self._by_backend: Mapping[str, float] = {}
        self.refusals = 0

    def mark(self, moment: str) -> None:
        """Note that something happens now: opening, opened, started, closing, closed."""
        self._times[moment] = time.monotonic()

    def measured(self, peak_memory: float | None, cpu_time: float | None) -> None:
        """Take the guest's figures, in MiB and seconds; None is not known."""
        self._by_guest = {"peak_memory": peak_memory, "cpu_time": cpu_time}

    def measured_by_backend(self, stats: Mapping[str, float]) -> None:
        """Take the backend's figures, which go before: no step says them, and they cover the sandbox."""
        self._by_backend = stats

    def measurements(self) -> Values:
        """The fields to register once the sandbox is closed."""
        times = self._times
        phases = {
            "queue": times["opening"] - times["requested"],
            "open": times["opened"] - times["opening"],
            "boot": times["started"] - times["opened"],
            "run": times["closing"] - times["started"],
            "close": times["closed"] - times["closing"],
        }
        values = {"sandbox-timings": json.dumps({name: round(value, 4) for name, value in phases.items()})}
        figures = {**self._by_guest, **self._by_backend}
        if figures.get("peak_memory") is not None:
            values["sandbox-peak-memory-mib"] = f"{figures['peak_memory']:.1f}"
        if figures.get("cpu_time") is not None:
            values["sandbox-cpu-seconds"] = f"{figures['cpu_time']:.3f}"
        if self.refusals:
            values["sandbox-refusals"] = str(self.refusals)
        return values


def identity(name: str, backend: Backend, sandbox_id: str, spec: SandboxSpec) -> Values:
    """The fields to register when the step starts."""
    return {
        "sandbox-backend": name,
        "sandbox-id": sandbox_id,
        "sandbox-isolation": backend.isolation.label,
        "sandbox-image": spec.image or getattr(backend, "default_image", ""),
        "sandbox-network": network_label(spec),
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
