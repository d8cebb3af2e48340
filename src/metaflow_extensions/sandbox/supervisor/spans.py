"""OpenTelemetry spans of a run's sandboxes, where Metaflow's own tracing is on; imports Metaflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from metaflow import tracing
from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from .journal import Phase

NANOSECONDS = 1_000_000_000
FLUSH_WITHIN = 2000  # milliseconds; the scheduler waits


class Spans:
    """Below the scheduler's span, whose W3C trace context the ``carrier`` holds."""

    def __init__(self, carrier: Mapping[str, str]) -> None:
        tracing.init_tracing()
        self._parent = TraceContextTextMapPropagator().extract(carrier)
        self._tracer = trace.get_tracer("metaflow-sandbox")

    def task(self, name: str, phases: Sequence[Phase], attributes: Mapping[str, Any]) -> None:
        """One span for the task, and one below it for each phase."""
        if not phases:
            return
        labels = {f"sandbox.{key}": value for key, value in attributes.items() if value is not None}
        start, end = phases[0].start, phases[-1].end
        span = self._tracer.start_span(
            f"sandbox {name}", context=self._parent, start_time=int(start * NANOSECONDS), attributes=labels
        )
        below = trace.set_span_in_context(span)
        for phase in phases:
            part = self._tracer.start_span(
                f"sandbox {phase.name}", context=below, start_time=int(phase.start * NANOSECONDS)
            )
            part.end(int(phase.end * NANOSECONDS))
        span.end(int(end * NANOSECONDS))

    def flush(self) -> None:
        """Send what was taken."""
        flush = getattr(trace.get_tracer_provider(), "force_flush", None)
        if flush is not None:
            flush(FLUSH_WITHIN)
