"""What a card tells, read from a task's metadata and from the samples of its step."""

from __future__ import annotations

import itertools
import json
import os
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...samples import Sample, read_samples

PHASES = ("queue", "open", "boot", "run", "close")
MOST_TASKS = 500
IDENTITY = ("backend", "id", "isolation", "image", "network")
# Registered when the step starts, and once its sandbox is closed.
BEGUN, ENDED = "sandbox-startup", "sandbox-timings"


@dataclass(frozen=True)
class Attempt:
    """One sandbox: ``begin`` in seconds since the epoch, ``phases`` in seconds, in their order."""

    name: str
    number: int
    begin: float
    phases: Mapping[str, float]

    @property
    def end(self) -> float:
        """In seconds since the epoch."""
        return self.begin + sum(self.phases.values())


@dataclass(frozen=True)
class TaskStory:
    """One task; ``facts`` are words for the reader."""

    pathspec: str
    facts: Mapping[str, str]
    attempt: Attempt | None
    samples: Sequence[Sample] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RunStory:
    """All sandboxes of a run; ``left_out`` tasks were too many to look at."""

    attempts: Sequence[Attempt]
    refusals: Mapping[str, int]
    left_out: int = 0


def read_task(task: Any) -> TaskStory:
    """The story of the task whose card is made."""
    entries = list(task.metadata)
    latest = {entry.name: entry.value for entry in sorted(entries, key=lambda entry: entry.created_at)}
    facts = {name: latest[f"sandbox-{name}"] for name in IDENTITY if latest.get(f"sandbox-{name}")}
    attempts = attempts_of("this task", entries, now=time.time())
    inside = bool(os.environ.get("METAFLOW_SANDBOX_GUEST"))
    return TaskStory(
        task.pathspec,
        facts,
        attempts[-1] if attempts else None,
        read_samples() if inside else (),
        environment(latest, inside=inside),
    )


def read_run(run: Any) -> RunStory:
    """The stories of the run's tasks, of the first ones where there are very many."""
    tasks = ((step.id, task) for step in run for task in step)
    attempts: list[Attempt] = []
    refusals: dict[str, int] = {}
    for step, task in itertools.islice(tasks, MOST_TASKS):
        entries = list(task.metadata)
        name = f"{step}/{task.id}"
        attempts += attempts_of(name, entries, now=time.time())
        count = sum(int(entry.value) for entry in entries if entry.name == "sandbox-refusals")
        if count:
            refusals[name] = count
    attempts.sort(key=lambda attempt: attempt.begin)
    return RunStory(attempts, refusals, sum(1 for _ in tasks))


def attempts_of(name: str, entries: Iterable[Any], now: float) -> list[Attempt]:
    """The sandboxes of a task, from metadata in whose ``created_at`` are milliseconds."""
    moments = sorted((entry for entry in entries if entry.name in (BEGUN, ENDED)), key=lambda e: e.created_at)
    attempts: list[Attempt] = []
    running = None
    for entry in moments:
        spent = json.loads(entry.value)
        seconds = {phase: max(0.0, float(spent[phase])) for phase in PHASES if phase in spent}
        at = entry.created_at / 1000
        if entry.name == BEGUN:
            running = (at - sum(seconds.values()), {**seconds, "run": max(0.0, now - at)})
            continue
        running = None
        attempts.append(Attempt(name, len(attempts), at - sum(seconds.values()), seconds))
    if running is not None:
        attempts.append(Attempt(name, len(attempts), *running))
    return attempts


def environment(latest: Mapping[str, str], *, inside: bool) -> dict[str, str]:
    """What the step runs with; of variables the names alone, and only those of a sandbox."""
    found = {
        "Python": platform.python_version(),
        "platform": platform.platform(),
        "cores seen": str(os.cpu_count()),
    }
    if "sandbox-limits" in latest:
        limits = json.loads(latest["sandbox-limits"])
        found["limits"] = (
            ", ".join(f"{name} {value:g}" for name, value in limits.items()) or "the backend's own"
        )
    if inside:
        found["variables"] = ", ".join(sorted(os.environ))
    return found
