"""What is told of a run's sandboxes beyond each task's own log: events in a file, spans, a summary."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..units import count, duration, mebibytes

VERSION = 1  # of the events; a field or an event that is added does not change it

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Phase:
    """A part of a task's time; seconds since the epoch."""

    name: str
    start: float
    end: float


class Tracer(Protocol):
    """Takes what becomes spans."""

    def task(self, name: str, phases: Sequence[Phase], attributes: Mapping[str, Any]) -> None:
        """One task with its phases in order."""

    def flush(self) -> None:
        """Send what was taken, within a few seconds."""


@dataclass(frozen=True)
class TaskFacts:
    """What the summary says of tasks; seconds and MiB, None where a task did not get so far."""

    name: str
    opened_in: float | None
    peak_memory: float | None
    refusals: int


class Journal:
    """One run's; ``events`` is the path of a file to which a JSON object a line is added."""

    def __init__(self, events: str = "", about: Mapping[str, str] | None = None) -> None:
        self._about = dict(about or {})
        self._facts: list[TaskFacts] = []
        self._lock = threading.Lock()
        self.tracer: Tracer | None = None
        self._events = -1
        if events:
            try:
                self._events = os.open(events, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            except OSError as error:
                # The launcher has looked at it before: it was taken away meanwhile.
                log.warning("no events are written: %s", error)

    def event(self, name: str, **fields: Any) -> None:
        """Add an event to the file, whole, so that several runs may share one."""
        if self._events < 0:
            return
        content = {"version": VERSION, "time": round(time.time(), 4), "event": name, **self._about, **fields}
        try:
            os.write(self._events, json.dumps(content).encode() + b"\n")
        except OSError as error:
            log.warning("the event %s is lost: %s", name, error)

    def over(self, facts: TaskFacts, phases: Sequence[Phase], attributes: Mapping[str, Any]) -> None:
        """A task is over, or one try of it."""
        with self._lock:
            self._facts.append(facts)
        if self.tracer is not None:
            self.tracer.task(facts.name, phases, {**self._about, **attributes})

    def close(self) -> str:
        """The run is over: the summary as one line, empty for a run without sandboxes."""
        with self._lock:
            facts = list(self._facts)
        opened = [(fact.opened_in, fact.name) for fact in facts if fact.opened_in is not None]
        peaks = [(fact.peak_memory, fact.name) for fact in facts if fact.peak_memory is not None]
        refusals = sum(fact.refusals for fact in facts)
        figures: dict[str, Any] = {"tasks": len(facts), "refusals": refusals}
        parts = [f"{count(len(facts), 'task')} in sandboxes"]
        if opened:
            slowest, name = max(opened)
            figures["open_median"] = _median([seconds for seconds, _ in opened])
            figures["open_slowest"] = slowest
            parts.append(f"opened in {duration(figures['open_median'])} (median)")
            parts.append(f"{duration(slowest)} (slowest, {name})")
        if peaks:
            figures["peak_memory"], name = max(peaks)
            parts.append(f"peak memory {mebibytes(figures['peak_memory'])} ({name})")
        parts.append(count(refusals, "refusal"))
        self.event("run_ended", **figures)
        if self.tracer is not None:
            self.tracer.flush()
        return " · ".join(parts) if facts else ""


def _median(values: list[float]) -> float:
    """The module statistics would take longer to import than everything else here."""
    values = sorted(values)
    middle = len(values) // 2
    return values[middle] if len(values) % 2 else (values[middle - 1] + values[middle]) / 2
