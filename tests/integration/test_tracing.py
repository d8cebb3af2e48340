"""OpenTelemetry spans of sandboxes, below Metaflow's own, as an OTLP collector gets them."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .harness import place_flow, run_flow

pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

PHASES = {"queue", "open", "boot", "run", "close"}


class Collector(http.server.BaseHTTPRequestHandler):
    """Takes spans in."""

    spans: list[Any]

    def do_POST(self) -> None:
        """Remember what was sent."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            import gzip

            body = gzip.decompress(body)
        request = ExportTraceServiceRequest.FromString(body)
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.spans += scope.spans
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def collector() -> Iterator[tuple[str, list[Any]]]:
    """(its URL, the spans that it has got)."""
    spans: list[Any] = []
    handler = type("Mine", (Collector,), {"spans": spans})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1/traces", spans
        server.shutdown()


def test_spans_of_sandboxes(tmp_path: Path, collector: tuple[str, list[Any]]) -> None:
    """Guards against sandboxes that are missing from a trace, or stand in one of their own."""
    url, spans = collector
    flow = place_flow("broken_flow.py", tmp_path)
    env = {"METAFLOW_OTEL_ENDPOINT": url, "METAFLOW_SERVICE_AUTH_KEY": "x"}
    run = run_flow(flow, "run", "--way", "nothing", "--with", "sandbox", env=env)
    ours = [span for span in spans if span.name.startswith("sandbox ")]
    tasks = {span.name: span for span in ours if "/" in span.name}
    assert set(tasks) == {"sandbox start/1", "sandbox end/2"}, run.output
    scheduler = {span.span_id: span for span in spans if span not in ours}
    for span in tasks.values():
        assert span.parent_span_id in scheduler
        below = [part for part in ours if part.parent_span_id == span.span_id]
        assert {part.name.removeprefix("sandbox ") for part in below} == PHASES
        assert {part.trace_id for part in below} == {span.trace_id}
        assert all(span.start_time_unix_nano <= part.start_time_unix_nano for part in below)
        attributes = {pair.key for pair in span.attributes}
        assert {"sandbox.backend", "sandbox.id", "sandbox.run", "sandbox.code"} <= attributes


def test_no_tracing_no_spans(tmp_path: Path, collector: tuple[str, list[Any]]) -> None:
    """Guards against spans that are sent although Metaflow's tracing is off."""
    url, spans = collector
    flow = place_flow("broken_flow.py", tmp_path)
    env = {"METAFLOW_OTEL_ENDPOINT": url, "METAFLOW_SERVICE_AUTH_KEY": "x", "DISABLE_TRACING": "1"}
    run_flow(flow, "run", "--way", "nothing", "--with", "sandbox", env=env)
    assert spans == []
