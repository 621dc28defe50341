"""A loopback HTTP server that takes what workers report: OTLP traces and metrics, Sentry envelopes."""

import gzip
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Collector:
    """Keeps every request body by its path."""

    def __init__(self) -> None:
        self._bodies: list[tuple[str, bytes]] = []
        bodies = self._bodies

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                bodies.append((self.path, gzip.decompress(body) if self.headers["Content-Encoding"] else body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Keep quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self._server.server_address[1]}"

    # Any: protobuf's generated messages.
    def spans(self) -> list[Any]:
        """All spans of all trace exports."""
        exports = [ExportTraceServiceRequest.FromString(body) for path, body in self._bodies if path == "/v1/traces"]
        return [s for export in exports for r in export.resource_spans for scope in r.scope_spans for s in scope.spans]

    def metric_names(self) -> set[str]:
        """The names of all metrics."""
        exports = [ExportMetricsServiceRequest.FromString(body) for path, body in self._bodies if path == "/v1/metrics"]
        return {
            m.name for export in exports for r in export.resource_metrics for s in r.scope_metrics for m in s.metrics
        }

    def sentry_events(self) -> list[dict[str, Any]]:
        """The events in all Sentry envelopes."""
        events = []
        for path, body in self._bodies:
            lines = body.split(b"\n") if path.endswith("/envelope/") else []
            events += [json.loads(line) for line in lines if b'"exception"' in line]
        return events

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
