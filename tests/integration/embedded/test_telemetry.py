"""Spans, metrics and error reports of real runs, collected in memory."""

import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any
from unittest.mock import Mock

import dramatiq
import pika
import pytest
import sentry_sdk
import structlog
from dramatiq import Message
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport

from jobkit.broker.connection import ConnectionSettings
from jobkit.broker.memory import MemoryExchange
from jobkit.broker.rabbitmq import JobBroker
from jobkit.context import Context
from jobkit.contracts import Job
from jobkit.deadletters import Failure, Reason
from jobkit.errors import PermanentError, TimeLimitExceeded, TransientError, Undecodable, Unroutable
from jobkit.execution import Execution
from jobkit.middleware.sentry import Sentry
from jobkit.producer import Producer
from jobkit.retry import fixed
from jobkit.run.carrier import Carrier
from jobkit.run.watch import Watch, Watcher, watching
from jobkit.service import Service
from jobkit.settings import PlatformSettings, ServiceSettings
from jobkit.store.memory import MemoryStore
from jobkit.telemetry import sending


class Parent(Job, queue="origin"):
    """Fail as often as told, then send a child."""

    failures: int = 0
    permanent: bool = False
    crumb: str = ""


class Child(Job, queue="target"):
    """The work of another service."""


class Nowhere(Job, queue="nowhere"):
    """A job that no service takes."""


class Collected(Transport):
    """Keeps Sentry's envelopes."""

    events: list[dict[str, Any]] = []  # noqa: RUF012  Sentry makes the instance itself

    def capture_envelope(self, envelope: Envelope) -> None:
        event = envelope.get_event()
        if event is not None:
            self.events.append(json.loads(json.dumps(event, default=str)))


@dataclass
class Observed:
    """A stage on which jobs run, and what was seen of them."""

    exchange: MemoryExchange
    spans: InMemorySpanExporter
    producer: Producer = field(init=False)
    children: int = 0

    def __post_init__(self) -> None:
        self.producer = Producer.over(self.exchange)

    def named(self, name: str) -> list[ReadableSpan]:
        return sorted((s for s in self.spans.get_finished_spans() if s.name == name), key=lambda s: s.start_time or 0)

    def processed(self, queue: str, count: int) -> list[ReadableSpan]:
        until(lambda: len(self.named(f"process {queue}")) >= count)
        return self.named(f"process {queue}")


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 8
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.002)


def details(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def context_of(span: ReadableSpan) -> trace.SpanContext:
    context: trace.SpanContext = span.context
    return context


@pytest.fixture(scope="session")
def all_spans() -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)  # can be set once in a process
    return exporter


@pytest.fixture(scope="session")
def reader() -> InMemoryMetricReader:
    built = InMemoryMetricReader()
    metrics.set_meter_provider(MeterProvider([built], shutdown_on_exit=False))
    return built


@pytest.fixture
def spans(all_spans: InMemorySpanExporter) -> InMemorySpanExporter:
    all_spans.clear()
    return all_spans


@pytest.fixture
def reports() -> Iterator[list[dict[str, Any]]]:
    Collected.events.clear()
    yield Collected.events
    sentry_sdk.get_client().close()
    sentry_sdk.init()


@pytest.fixture
def stage(
    spans: InMemorySpanExporter, reader: InMemoryMetricReader, reports: list[dict[str, Any]]
) -> Iterator[Observed]:
    observed = Observed(MemoryExchange(), spans)

    @contextlib.contextmanager
    def nothing(_settings: ServiceSettings) -> Iterator[None]:
        yield

    origin: Service[ServiceSettings, None] = Service("origin", lifespan=nothing)
    target: Service[ServiceSettings, None] = Service("target", lifespan=nothing)

    @origin.actor(Parent, retry=fixed(0.005, attempts=3))
    def parent(job: Parent, context: Context[None]) -> None:
        if job.crumb:
            sentry_sdk.add_breadcrumb(message=job.crumb)
            sentry_sdk.set_user({"id": job.crumb})
            sentry_sdk.set_tag("customer", job.crumb)
            structlog.contextvars.bind_contextvars(customer=job.crumb)
        if job.permanent:
            raise PermanentError("never")
        if context.attempt <= job.failures:
            raise TransientError(f"attempt {context.attempt}")
        context.send(Child())

    @target.actor(Child)
    def child(_job: Child, _context: Context[None]) -> None:
        observed.children += 1

    store, platform = MemoryStore(), PlatformSettings(environment="test")
    brokers = [service.embed(observed.exchange, store, platform, ServiceSettings()) for service in (origin, target)]
    sentry = Sentry("https://key@sentry.example.org/1", "test", transport=Collected)
    for broker in brokers:
        (carrier,) = [one for one in broker.middleware if isinstance(one, Carrier)]
        # Where the assembly puts it: inside the span.
        carrier._path = replace(carrier._path, watch=watching(_as_watcher(carrier._path.watch), sentry.scope))
    sentry.after_process_boot(brokers[0])
    workers = [dramatiq.Worker(broker, worker_threads=1, worker_timeout=10) for broker in brokers]
    for worker in workers:
        worker.start()
    yield observed
    for worker in workers:
        worker.stop(timeout=5_000)


def _as_watcher(watch: Watch) -> Watcher:
    def watcher(execution: Execution) -> Iterator[None]:
        with watch(execution):
            yield

    return watcher


def numbers(reader: InMemoryMetricReader, name: str, **wanted: str) -> float:
    """The count of all points of a metric that bear these attributes."""
    data = reader.get_metrics_data()
    total = 0.0
    for resource in data.resource_metrics if data else []:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for point in metric.data.data_points if metric.name == name else []:
                    if wanted.items() <= dict(point.attributes or {}).items():
                        total += point.count if isinstance(point, HistogramDataPoint) else getattr(point, "value", 0)
    return total


def test_one_trace_leads_from_the_producer_through_a_job_to_its_child(stage: Observed) -> None:
    stage.producer.send(Parent())
    (child_run,) = stage.processed("target", 1)
    (send,), (run,), (child_send,) = (
        stage.named("send origin"),
        stage.processed("origin", 1),
        stage.named("send target"),
    )
    chain = [send, run, child_send, child_run]
    assert len({context_of(span).trace_id for span in chain}) == 1
    assert [span.parent.span_id if span.parent else None for span in chain] == [
        None,
        *(context_of(span).span_id for span in chain[:-1]),
    ]
    assert [span.kind for span in chain] == [SpanKind.PRODUCER, SpanKind.CONSUMER, SpanKind.PRODUCER, SpanKind.CONSUMER]
    assert run.links[0].context.span_id == context_of(send).span_id


def test_a_retry_is_a_trace_of_its_own_linked_to_the_one_that_sent_the_job(stage: Observed) -> None:
    stage.producer.send(Parent(failures=2))
    runs = stage.processed("origin", 3)
    creation = context_of(stage.named("send origin")[0])
    assert len({context_of(run).trace_id for run in runs}) == 3
    assert [run.parent is None for run in runs] == [False, True, True]
    for run in runs:
        assert (run.links[0].context.trace_id, run.links[0].context.span_id) == (creation.trace_id, creation.span_id)
    assert [details(run)["jobkit.outcome"] for run in runs] == ["retried", "retried", "completed"]
    assert [details(run)["jobkit.attempt"] for run in runs] == [1, 2, 3]


def test_a_span_is_named_and_described_as_the_conventions_say(stage: Observed) -> None:
    receipt = stage.producer.send(Parent())
    (run,), (send,) = stage.processed("origin", 1), stage.named("send origin")
    assert details(send) == {
        "messaging.system": "rabbitmq",
        "messaging.destination.name": "origin",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.rabbitmq.destination.routing_key": "origin",
        "messaging.message.id": receipt.job_id,
    }
    assert details(run) == {
        "messaging.system": "rabbitmq",
        "messaging.destination.name": "origin",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.message.id": receipt.job_id,
        "jobkit.actor": "parent",
        "jobkit.attempt": 1,
        "jobkit.outcome": "completed",
    }
    assert run.status.status_code is StatusCode.UNSET


def test_a_batch_is_one_span_that_says_how_many(stage: Observed) -> None:
    stage.producer.send_many([Child() for _ in range(5)])
    (send,) = stage.named("send target")
    assert details(send)["messaging.batch.message_count"] == 5
    assert "messaging.message.id" not in details(send)
    runs = stage.processed("target", 5)
    assert {context_of(run).trace_id for run in runs} == {context_of(send).trace_id}


def test_a_failed_run_says_so_in_its_span(stage: Observed) -> None:
    stage.producer.send(Parent(permanent=True))
    (run,) = stage.processed("origin", 1)
    assert details(run)["error.type"] == "PermanentError"
    assert details(run)["jobkit.outcome"] == "died"
    assert (run.status.status_code, run.status.description) == (StatusCode.ERROR, "never")
    assert [event.name for event in run.events] == ["exception"]
    (letter,) = stage.exchange.dead_letters("origin")
    assert letter.failure.trace_id == f"{context_of(run).trace_id:032x}"


def test_a_send_that_failed_says_so_in_its_span_and_count(stage: Observed, reader: InMemoryMetricReader) -> None:
    with pytest.raises(Unroutable):
        stage.producer.send(Nowhere())
    (send,) = stage.named("send nowhere")
    assert details(send)["error.type"] == "Unroutable"
    failed = {"messaging.destination.name": "nowhere", "error.type": "Unroutable"}
    assert numbers(reader, "messaging.client.sent.messages", **failed) == 1


def test_a_batch_for_several_queues_is_counted_under_each(stage: Observed, reader: InMemoryMetricReader) -> None:
    def snapshot() -> list[float]:
        names = ("origin", "target")
        return [
            numbers(reader, "messaging.client.sent.messages", **{"messaging.destination.name": name}) for name in names
        ]

    before = snapshot()
    stage.producer.send_many([Parent(permanent=True), Child(), Child()])
    assert [now - then for now, then in zip(snapshot(), before, strict=True)] == [1, 2]
    (send,) = stage.named("send")
    assert details(send)["messaging.batch.message_count"] == 3
    assert "messaging.destination.name" not in details(send)
    stage.processed("target", 2)
    stage.processed("origin", 1)


def test_a_send_that_was_interrupted_is_no_success(spans: InMemorySpanExporter, reader: InMemoryMetricReader) -> None:
    message = Message[Any]("slow", "slow", (), {}, {})
    with pytest.raises(TimeLimitExceeded), sending([message]):
        raise TimeLimitExceeded
    (send,) = spans.get_finished_spans()
    assert details(send)["error.type"] == "TimeLimitExceeded"
    assert send.status.status_code is StatusCode.ERROR
    failed = {"messaging.destination.name": "slow", "error.type": "TimeLimitExceeded"}
    assert numbers(reader, "messaging.client.sent.messages", **failed) == 1


def test_a_job_that_is_sent_inside_the_application_s_own_span_joins_its_trace(stage: Observed) -> None:
    with trace.get_tracer("application").start_as_current_span("POST /orders") as request:
        stage.producer.send(Child())
    (run,) = stage.processed("target", 1)
    assert context_of(run).trace_id == request.get_span_context().trace_id


def test_sends_and_runs_are_counted_and_timed(stage: Observed, reader: InMemoryMetricReader) -> None:
    def snapshot() -> list[float]:
        sent, consumed = {"messaging.destination.name": "origin"}, {"messaging.destination.name": "origin"}
        return [
            numbers(reader, "messaging.client.sent.messages", **sent),
            numbers(reader, "messaging.client.operation.duration", **sent),
            numbers(reader, "messaging.client.consumed.messages", **consumed, **{"jobkit.outcome": "retried"}),
            numbers(reader, "messaging.client.consumed.messages", **consumed, **{"jobkit.outcome": "completed"}),
            numbers(reader, "messaging.process.duration", **consumed, **{"jobkit.actor": "parent"}),
        ]

    before = snapshot()
    stage.producer.send(Parent(failures=1))
    stage.processed("origin", 2)
    until(lambda: [now - then for now, then in zip(snapshot(), before, strict=True)] == [1, 1, 1, 1, 2])


def test_a_job_that_died_is_reported_once_with_what_identifies_it(
    stage: Observed, reports: list[dict[str, Any]]
) -> None:
    receipt = stage.producer.send(Parent(failures=9))
    stage.processed("origin", 3)
    (event,) = reports
    tags = {"actor": "parent", "queue": "origin", "attempt": "3", "job_id": receipt.job_id}
    assert tags.items() <= event["tags"].items()
    assert event["tags"]["reason"] == "attempts_exhausted"
    assert event["exception"]["values"][-1]["type"] == "TransientError"
    assert event["exception"]["values"][-1]["value"] == "attempt 3"
    assert event["environment"] == "test"
    assert all("vars" not in frame for frame in event["exception"]["values"][-1]["stacktrace"]["frames"])


def test_a_job_that_succeeds_in_the_end_is_not_reported(stage: Observed, reports: list[dict[str, Any]]) -> None:
    stage.producer.send(Parent(failures=2))
    stage.processed("origin", 3)
    stage.processed("target", 1)
    assert reports == []


@pytest.mark.parametrize("before", [{"crumb": "alice"}, {"crumb": "alice", "failures": 1}])
def test_a_report_and_a_log_line_hold_nothing_of_another_job(
    stage: Observed, reports: list[dict[str, Any]], caplog: pytest.LogCaptureFixture, before: dict[str, Any]
) -> None:
    bound: list[dict[str, Any]] = []

    class Bound(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            bound.append(structlog.contextvars.get_contextvars())
            return True

    watch, logger = Bound(), logging.getLogger("jobkit.jobs")
    caplog.set_level(logging.INFO, logger.name)
    stage.producer.send(Parent.model_validate(before))
    stage.processed("origin", 1 + before.get("failures", 0))
    logger.addFilter(watch)
    stage.producer.send(Parent(permanent=True, crumb="bob"))
    until(lambda: bool(reports))
    logger.removeFilter(watch)
    (event,) = reports
    assert [crumb["message"] for crumb in event["breadcrumbs"]["values"] if "message" in crumb] == ["bob"]
    assert (event["user"], event["tags"]["customer"]) == ({"id": "bob"}, "bob")
    assert "alice" not in json.dumps(event)
    stage.producer.send(Parent())
    stage.processed("origin", 3 + before.get("failures", 0))
    assert {"customer": "alice"} not in bound


def test_one_report_for_each_job_that_died(stage: Observed, reports: list[dict[str, Any]]) -> None:
    ids = {stage.producer.send(Parent(permanent=True)).job_id for _ in range(3)}
    stage.processed("origin", 3)
    assert {event["tags"]["job_id"] for event in reports} == ids
    assert len(reports) == 3


def test_a_message_that_dies_before_any_actor_sees_it_is_traced_counted_and_reported(
    spans: InMemorySpanExporter, reader: InMemoryMetricReader, reports: list[dict[str, Any]]
) -> None:
    broker = JobBroker(ConnectionSettings(["amqp://localhost"]), Mock())
    Sentry("https://key@sentry.example.org/1", "test", transport=Collected).after_process_boot(broker)
    wanted = {"messaging.destination.name": "email", "jobkit.outcome": "died", "error.type": "Undecodable"}
    before = numbers(reader, "messaging.client.consumed.messages", **wanted)
    error = Undecodable("the body is not JSON")
    failure = Failure.of(error, Reason.UNDECODABLE, actor="", queue="email", died_at=1)
    sender = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"traceparent": f"00-{sender}-00f067aa0ba902b7-01"}
    broker.report_death(error, failure, pika.BasicProperties(message_id="m-1", type="send_email", headers=headers))
    (span,) = spans.get_finished_spans()
    assert (span.name, span.status.status_code) == ("process email", StatusCode.ERROR)
    assert details(span)["messaging.message.id"] == "m-1"
    assert [trace.format_trace_id(link.context.trace_id) for link in span.links] == [sender]
    assert numbers(reader, "messaging.client.consumed.messages", **wanted) == before + 1
    (event,) = reports
    assert event["tags"] == {"actor": "send_email", "queue": "email", "reason": "undecodable", "job_id": "m-1"}


def test_a_delayed_send_is_linked_to_its_sender_and_not_nested_in_it(stage: Observed) -> None:
    stage.producer.send(Parent(), delay=timedelta(milliseconds=5))
    (sent,), (run,) = stage.named("send origin"), stage.processed("origin", 1)
    assert context_of(run).trace_id != context_of(sent).trace_id
    assert [link.context.trace_id for link in run.links] == [context_of(sent).trace_id]
