"""Where a worker's spans and metrics go."""

import importlib
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from dramatiq import Broker
from dramatiq.middleware import Middleware

from jobkit.errors import text_of
from jobkit.settings import EXIT_MISCONFIGURED

#: Seconds that a worker which ends gives its last spans and metrics. A collector that is silent holds up nobody longer.
FLUSH_TIMEOUT: Final = 2.0

log = logging.getLogger(__name__)


def preload(traces: str | None, metrics: str | None) -> None:
    """Import what ``TelemetryExport`` will use, for processes that are forked from this one.

    Args:
        traces: As for ``TelemetryExport``.
        metrics: The same.
    """
    used = {
        "opentelemetry.exporter.otlp.proto.http.trace_exporter": traces,
        "opentelemetry.sdk.trace.export": traces,
        "opentelemetry.exporter.otlp.proto.http.metric_exporter": metrics,
        "opentelemetry.sdk.metrics.export": metrics,
        "requests": traces or metrics,  # which an exporter imports when it is made
    }
    for module, endpoint in used.items():
        if endpoint is not None:
            with suppress(Exception):  # a variable that cannot be used: each worker says so, and ends
                importlib.import_module(module)


class TelemetryExport(Middleware):
    """Builds the providers in the worker process, and flushes them when it ends.

    Threads do not survive a fork, so this must not happen earlier; ``atexit`` does not run in worker processes, so it
    must not be left to that. A variable of OpenTelemetry's own that it cannot use ends the worker with one line.

    Args:
        traces: Where traces go, by OTLP over HTTP, with the path; None for nowhere.
        metrics: The same for metrics.
        service: The name under which spans and metrics appear.
    """

    def __init__(self, traces: str | None, metrics: str | None, service: str) -> None:
        self._traces = traces
        self._metrics = metrics
        self._service = service
        self._shutdowns: list[Callable[[], None]] = []

    def before_worker_boot(self, broker: Broker, worker: Any) -> None:  # Any: Dramatiq's Worker, not used
        from opentelemetry import metrics, trace

        try:
            if self._traces is not None:
                trace.set_tracer_provider(self._tracers(self._traces))
            if self._metrics is not None:
                metrics.set_meter_provider(self._meters(self._metrics))
        except Exception as error:  # of as many types as there are variables
            log.critical(
                "telemetry cannot be set up, see the variables that begin with OTEL_: %s: %s",
                type(error).__name__,
                text_of(error),
            )
            raise SystemExit(EXIT_MISCONFIGURED) from error

    def after_worker_shutdown(self, broker: Broker, worker: Any) -> None:
        deadline = time.monotonic() + FLUSH_TIMEOUT
        flushes = [threading.Thread(target=shutdown, daemon=True) for shutdown in self._shutdowns]
        for flush in flushes:
            flush.start()
        for flush in flushes:
            flush.join(max(0.0, deadline - time.monotonic()))
        if any(flush.is_alive() for flush in flushes):
            log.warning("the last traces or metrics are lost: the collector did not take them in %g s", FLUSH_TIMEOUT)

    # Any: the package is typed, but the classes are imported here only, where a worker has them.
    def _resource(self) -> Any:
        from opentelemetry.sdk.resources import Resource

        return Resource.create({"service.name": self._service})

    def _tracers(self, endpoint: str) -> Any:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        provider = TracerProvider(resource=self._resource(), shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint)))
        self._shutdowns.append(provider.shutdown)
        return provider

    def _meters(self, endpoint: str) -> Any:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

        reader = PeriodicExportingMetricReader(OTLPMetricExporter(endpoint))
        provider = MeterProvider([reader], resource=self._resource(), shutdown_on_exit=False)
        self._shutdowns.append(provider.shutdown)
        return provider
