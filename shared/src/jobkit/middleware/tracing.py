"""A span and the metrics for each run of a job."""

import time
from typing import Any

from dramatiq import Broker
from dramatiq.broker import MessageProxy
from dramatiq.middleware import Middleware
from opentelemetry import context, trace

from jobkit import telemetry
from jobkit.execution import Verdict, execution_of, was_delayed


class Tracing(Middleware):
    """Opens a consumer span around everything that happens with a delivery, and counts it by its outcome."""

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        span = telemetry.start_processing(message._message, first=not was_delayed(message._message))
        token = context.attach(trace.set_span_in_context(span))
        message.__dict__["span"] = (span, token, time.perf_counter())

    def after_process_message(
        self,
        broker: Broker,
        message: MessageProxy,
        *,
        result: object = None,
        exception: BaseException | None = None,
    ) -> None:
        if "span" not in message.__dict__:
            return
        span, token, started = message.__dict__.pop("span")
        execution = execution_of(message)
        verdict = execution.verdict if execution else None
        outcome = verdict or (Verdict.COMPLETED if exception is None else Verdict.HANDED_BACK)
        attempt = execution.attempt if execution else 0
        duration = time.perf_counter() - started
        error = execution.error if execution else exception
        telemetry.processed(span, message.queue_name, message.actor_name, attempt, duration, outcome.value, error)
        context.detach(token)

    def after_skip_message(self, broker: Broker, message: MessageProxy) -> None:
        self.after_process_message(broker, message)


class TelemetryExport(Middleware):
    """Builds the providers in the worker process, and flushes them when it ends.

    Threads do not survive a fork, so this must not happen earlier; ``atexit`` does not run in worker processes, so it
    must not be left to that.

    Args:
        endpoint: OTLP over HTTP, without the path (``http://collector:4318``).
        service: The name under which spans and metrics appear.
    """

    def __init__(self, endpoint: str, service: str) -> None:
        self._endpoint = endpoint.rstrip("/")
        self._service = service
        self._providers: list[Any] = []  # Any: the two providers share no base class

    def after_process_boot(self, broker: Broker) -> None:
        from opentelemetry import metrics
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        resource = Resource.create({"service.name": self._service})
        tracers = TracerProvider(resource=resource, shutdown_on_exit=False)
        tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{self._endpoint}/v1/traces")))
        trace.set_tracer_provider(tracers)
        reader = PeriodicExportingMetricReader(OTLPMetricExporter(f"{self._endpoint}/v1/metrics"))
        meters = MeterProvider([reader], resource=resource, shutdown_on_exit=False)
        metrics.set_meter_provider(meters)
        self._providers = [tracers, meters]

    def after_worker_shutdown(self, broker: Broker, worker: Any) -> None:  # Any: Dramatiq's Worker, not used
        for provider in self._providers:
            provider.shutdown()
