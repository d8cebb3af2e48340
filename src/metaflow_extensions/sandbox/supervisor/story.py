"""What is told of one task while it runs: lines in its log, events, spans, and what its metadata keeps."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import Any

from ..backends.interface import Backend, SandboxSpec
from ..units import duration, mebibytes
from .journal import Journal, TaskFacts
from .output import OutputSink
from .protocol import TaskSettings
from .record import TaskRecord, network_label

NOTICES_SHOWN = 20  # refusals and failures in the task's own log
NOTICES_LOGGED = 1000  # and in the supervisor's
OPENED_WITHIN = 5.0  # seconds
NOTICEABLE = 1.0  # seconds of waiting for a sandbox

log = logging.getLogger(__name__)


class Story:
    """Of one task; ``quiet`` leaves out of its log what is no trouble."""

    def __init__(self, journal: Journal, task: TaskSettings, sink: OutputSink, *, quiet: bool) -> None:
        self.record = TaskRecord()
        self._journal = journal
        self._task = task
        self._sink = sink
        self._quiet = quiet
        self._sandbox: str | None = None
        self._notices = 0
        self._noticing = threading.Lock()
        self._told = False
        self._opened = threading.Event()

    def progress(self, line: str) -> None:
        """Tell what takes its time: a pull, a queue."""
        if not self._quiet:
            self._sink.say(line)

    def event(self, name: str, **fields: Any) -> None:
        """Write an event about this task."""
        identity = self._task.identity
        its = {"step": identity.step, "task": identity.task, "attempt": identity.attempt}
        self._journal.event(name, **its, backend=self._task.backend, sandbox=self._sandbox, **fields)

    # --- the phases, in order -----------------------------------------------------------------

    def opening(self) -> None:
        """A sandbox is asked for."""
        self._opened.clear()
        self.record.mark("opening")
        self.event("sandbox_opening", queued=self.record.seconds("requested", "opening"))

    def opened(self, backend: Backend, sandbox_id: str) -> None:
        """It is there, and its command has been started."""
        self._sandbox = sandbox_id
        self.record.mark("opened")
        spec, seconds = self._task.spec, self.record.seconds("opening", "opened")
        label, network = backend.isolation.label, network_label(spec)
        parts = [
            f"{self._task.backend} {sandbox_id}",
            f"isolation {label}",
            f"network {network}",
            *limits(spec),
        ]
        parts.append(f"opened in {duration(seconds)}")
        queued = self.record.seconds("requested", "opening")
        if queued > NOTICEABLE:
            parts.append(f"waited for {duration(queued)}")
        self.progress(" · ".join(parts))
        self.event("sandbox_opened", seconds=seconds, isolation=label, network=network, **amounts(spec))
        self._opened.set()

    def starting(self) -> None:
        """User code is about to start."""
        # A guest can be faster than the call that has started it returns.
        self._opened.wait(OPENED_WITHIN)
        self.record.mark("started")
        seconds = self.record.seconds("opened", "started")
        self.progress(f"started in {duration(seconds)}")
        self.event("step_started", seconds=seconds)

    def ended(self, signal: int | None, peak_memory: float | None, cpu_time: float | None) -> None:
        """The step has ended, as its guest says."""
        self.record.measured(peak_memory, cpu_time)
        self.event("step_ended", signal=signal, peak_memory=peak_memory, cpu_time=cpu_time)

    def kept(self, until: float) -> None:
        """The sandbox stays, until so many seconds since the epoch."""
        self.record.mark("kept")
        self.event("sandbox_kept", until=until)

    def closing(self, stats: Mapping[str, float]) -> None:
        """The sandbox is measured and goes."""
        self.record.mark("closing")
        self.record.measured_by_backend(stats)

    def closed(self) -> None:
        """It is gone."""
        self.record.mark("closed")
        record, figures = self.record, self.record.figures()
        parts = []
        if record.has("started"):
            parts.append(f"ran for {duration(record.seconds(*record.phase('run')))}")
        seconds = record.seconds("closing", "closed")
        parts.append(f"closed in {duration(seconds)}")
        if figures.get("peak_memory") is not None:
            parts.append(f"peak memory {mebibytes(figures['peak_memory'] or 0)}")
        if figures.get("cpu_time") is not None:
            parts.append(f"{figures['cpu_time']:.2f} s of CPU")
        self.progress(" · ".join(parts))
        self.event("sandbox_closed", seconds=seconds, **figures)

    def again(self, error: Exception, pause: float) -> None:
        """A try has failed before user code ran; another comes in so many seconds."""
        self.event("try_failed", error=f"{type(error).__name__}: {error}", again_in=pause)

    def over(self, code: int, signal: int) -> None:
        """Nothing follows. Idempotent."""
        if self._told:
            return
        self._told = True
        record, identity = self.record, self._task.identity
        outcome = record.outcome
        self.event("task_ended", code=code, signal=signal, outcome=outcome, refusals=record.refusals)
        opened_in = record.seconds("opening", "opened") if record.has("opened") else None
        name = f"{identity.step}/{identity.task}"
        attributes = {
            "backend": self._task.backend,
            "id": self._sandbox,
            "attempt": identity.attempt,
            "code": code,
            "outcome": outcome,
            "refusals": record.refusals,
            **record.figures(),
        }
        peak = record.figures().get("peak_memory")
        facts = TaskFacts(name, opened_in, peak, record.refusals)
        self._journal.over(facts, record.phases_since_epoch(), attributes)

    # --- trouble ------------------------------------------------------------------------------

    def notice(self, message: str, error: BaseException | None = None) -> None:
        """Log a refusal, or with ``error`` a failure of the launcher, where the user sees it."""
        # A guest can cause as many as it likes: what is logged is bounded, what is counted is not.
        with self._noticing:
            self._notices += 1
            number = self._notices
            if error is None:
                self.record.refused(message)
        if number <= NOTICES_LOGGED:
            log.warning("%s: %s", self._task.identity.key, message, exc_info=error)
            self.event("refused" if error is None else "launcher_failed", reason=message)
        if number <= NOTICES_SHOWN:
            self._sink.say(message)
        if number == NOTICES_SHOWN:
            self._sink.say("further refusals are not shown")


def limits(spec: SandboxSpec) -> list[str]:
    """The limits of a sandbox, for people."""
    parts = []
    if spec.cpu is not None:
        parts.append(f"{spec.cpu:g} core{'' if spec.cpu == 1 else 's'}")
    if spec.memory is not None:
        parts.append(mebibytes(spec.memory))
    if spec.disk is not None:
        parts.append(f"{mebibytes(spec.disk)} of disk")
    if spec.gpu:
        parts.append(f"{spec.gpu} GPU{'' if spec.gpu == 1 else 's'}")
    return parts


def amounts(spec: SandboxSpec) -> dict[str, Any]:
    """The same for programs: cores, MiB, MiB, a count."""
    return {"cpu": spec.cpu, "memory": spec.memory, "disk": spec.disk, "gpu": spec.gpu, "image": spec.image}
