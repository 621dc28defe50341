"""The probe under Dramatiq as it comes, with confirms: what the tests of the traps compare with."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.middleware import Middleware
from ledger import Ledger
from opentelemetry import trace


class Diary(Middleware):
    """Writes down that a worker process has started and stopped."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def before_worker_boot(self, broker: dramatiq.Broker, worker: Any) -> None:
        self._ledger.write("open", str(os.getpid()))

    def after_worker_shutdown(self, broker: dramatiq.Broker, worker: Any) -> None:
        self._ledger.write("close", str(os.getpid()))


def export_spans() -> None:
    """Export traces as OpenTelemetry's pages show it: flushed when the interpreter exits."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)


def hang() -> None:
    """Never return."""
    while True:
        time.sleep(0.01)


def broker() -> None:
    """What the dramatiq command calls."""
    ledger = Ledger(Path(os.environ["PROBE_LEDGER"]))
    if "OTEL_EXPORTER_OTLP_ENDPOINT" in os.environ:
        export_spans()
    built = RabbitmqBroker(url=os.environ["JOBKIT_BROKER_URL"], confirm_delivery=True)
    built.add_middleware(Diary(ledger))

    @dramatiq.actor(queue_name="probe", max_retries=0, broker=built)
    def probe(name: str, seconds: float = 0, then: str = "return") -> None:
        with trace.get_tracer("probe").start_as_current_span("process probe"):
            ledger.write("start", name)
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                time.sleep(0.01)
            if then == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if then == "hang in a pool":
                with ThreadPoolExecutor() as pool:
                    pool.submit(hang).result()
            ledger.write("end", name)

    dramatiq.set_broker(built)
