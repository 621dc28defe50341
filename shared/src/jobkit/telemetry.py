"""Spans and metrics of sending and processing, by OpenTelemetry's semantic conventions for messaging.

Only the API is used here: without a provider all of it does nothing. A worker builds its providers after the fork
(``jobkit.middleware.tracing``), a producer uses those of the application that it is part of.
Source: https://opentelemetry.io/docs/specs/semconv/messaging/rabbitmq/
"""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import lru_cache
from typing import Any, Final

from dramatiq import Message
from opentelemetry import metrics, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context, get_current
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.trace import Link, Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from jobkit.errors import text_of

_SCOPE: Final = "jobkit"


def _meter_of(scope: str) -> metrics.Meter:
    try:
        return metrics.get_meter(scope)
    except Exception:  # OTEL_PYTHON_METER_PROVIDER names none; of several types
        return metrics.NoOpMeterProvider().get_meter(scope)


#: What travels with messages is W3C's, whatever ``OTEL_PROPAGATORS`` says of the application's other protocols.
_PROPAGATOR: Final = CompositePropagator([TraceContextTextMapPropagator(), W3CBaggagePropagator()])

#: Neither asks the environment for a provider, which it would do at the import, and raise if it cannot be had.
_tracer = trace.ProxyTracerProvider().get_tracer(_SCOPE)
_meter = _meter_of(_SCOPE)

_sent = _meter.create_counter("messaging.client.sent.messages", "{message}", "Messages that were to be sent.")
_send_time = _meter.create_histogram("messaging.client.operation.duration", "s", "Time until the broker's confirm.")
_consumed = _meter.create_counter("messaging.client.consumed.messages", "{message}", "Messages that were delivered.")
_breaker_changes = _meter.create_counter("jobkit.breaker.changes", "{change}", "Breakers that were opened or closed.")
_ignored_fields = _meter.create_counter(
    "jobkit.payload.ignored_fields", "{field}", "Fields of payloads that the worker's contract does not have."
)
_dropped_jobs = _meter.create_counter("jobkit.jobs.dropped", "{job}", "Jobs that died without a dead letter.")
_dropped_events = _meter.create_counter(
    "jobkit.observers.dropped", "{event}", "Events that observers were not told of, as too many waited."
)
_stuck = _meter.create_counter("jobkit.jobs.stuck", "{job}", "Jobs that had not ended 5 s after their interrupt.")
_process_time = _meter.create_histogram("messaging.process.duration", "s", "Time that a job ran.")


@lru_cache(maxsize=1_000)
def attributes(queue: str, operation: str, kind: str) -> Mapping[str, str]:
    """What spans and metrics of one operation have in common."""
    return {
        "messaging.system": "rabbitmq",
        "messaging.destination.name": queue,
        "messaging.operation.name": operation,
        "messaging.operation.type": kind,
    }


@contextmanager
def sending(messages: Sequence[Message[Any]]) -> Iterator[None]:
    """A producer span around the sending of ``messages``, whose context travels with those that have none yet.

    Each queue's messages are counted under it. A batch for several queues is one operation: its span and its time
    name none of them.
    """
    if not messages:
        yield
        return
    first, started = messages[0], time.perf_counter()
    queues = {first.queue_name: 1} if len(messages) == 1 else Counter(message.queue_name for message in messages)
    common = _sent_to(queues)
    details: dict[str, str | int] = dict(common)
    if len(queues) == 1:
        details["messaging.rabbitmq.destination.routing_key"] = first.queue_name
    if len(messages) == 1:
        details["messaging.message.id"] = first.message_id
    else:
        details["messaging.batch.message_count"] = len(messages)
    name = f"send {first.queue_name}" if len(queues) == 1 else "send"
    span = _tracer.start_span(name, kind=SpanKind.PRODUCER, attributes=details)
    carrier: dict[str, str] = {}
    if span.get_span_context().is_valid or get_current():  # else there is nothing that could travel
        _PROPAGATOR.inject(carrier, trace.set_span_in_context(span))
    for message in messages if carrier else ():
        if "traceparent" not in message.options:
            message.options.update(carrier)
    outcome: dict[str, str] = {}
    # What nobody records need not become the current span, which takes longer than all the rest.
    current = trace.use_span(span, end_on_exit=True) if span.is_recording() else nullcontext()
    with current:
        try:
            yield
        except BaseException as error:  # an interrupt is no success either
            outcome = {"error.type": type(error).__name__}
            span.set_attributes(outcome)
            span.set_status(StatusCode.ERROR, text_of(error))
            raise
        finally:
            for queue, count in queues.items():
                _sent.add(count, {**attributes(queue, "send", "send"), **outcome})
            _send_time.record(time.perf_counter() - started, {**common, **outcome})


class Batch:
    """The sending of messages that are not known when it begins: one span and one trace context for all of them."""

    def __init__(self, span: Span) -> None:
        self._span = span
        self._carrier: dict[str, str] = {}
        self._count = 0
        self._error = ""
        self._queues: set[str] = set()
        _PROPAGATOR.inject(self._carrier, trace.set_span_in_context(span))

    def carry(self, message: Message[Any]) -> None:
        """Let the trace context travel with ``message``, if it has none yet."""
        self._count += 1
        self._queues.add(message.queue_name)
        if "traceparent" not in message.options:
            message.options.update(self._carrier)

    def settled(self, queue: str, error: BaseException | None) -> None:
        """Count one message by what became of it."""
        outcome = {} if error is None else {"error.type": type(error).__name__}
        _sent.add(1, {**attributes(queue, "send", "send"), **outcome})
        if error is not None and not self._error:
            self._error = type(error).__name__
            self._span.set_status(StatusCode.ERROR, text_of(error))

    def end(self, seconds: float) -> None:
        """Describe what has been sent, and end the span."""
        common = _sent_to(self._queues) if self._queues else attributes("", "send", "send")
        outcome = {"error.type": self._error} if self._error else {}
        self._span.set_attributes({**common, **outcome, "messaging.batch.message_count": self._count})
        if len(self._queues) == 1:
            self._span.update_name(f"send {next(iter(self._queues))}")
        self._span.end()
        _send_time.record(seconds, {**common, **outcome})


@contextmanager
def sending_many() -> Iterator[Batch]:
    """A producer span around a stream of messages.

    It does not become the current span: whoever reads the outcomes of the stream does so between two of its steps.
    """
    started, batch = time.perf_counter(), Batch(_tracer.start_span("send", kind=SpanKind.PRODUCER))
    try:
        yield batch
    finally:
        batch.end(time.perf_counter() - started)


def start_processing(message: Message[Any], *, first: bool) -> Span:
    """A consumer span for one run, not yet ended.

    It is linked to the span that created the message. On the first, undelayed run it is that span's child as well;
    later ones start a trace of their own, since parents across fan-out and retries make traces of no use to anyone.
    """
    options = message.options
    # Most have none, where nobody traces.
    is_traced = "traceparent" in options or "baggage" in options
    creation = _PROPAGATOR.extract(_text_only(options)) if is_traced else Context()
    created_by = trace.get_current_span(creation).get_span_context()
    return _tracer.start_span(
        f"process {message.queue_name}",
        context=creation if first else Context(),
        kind=SpanKind.CONSUMER,
        links=[Link(created_by)] if created_by.is_valid else None,
        attributes={
            **attributes(message.queue_name, "process", "process"),
            "messaging.message.id": message.message_id,
            "jobkit.actor": message.actor_name,
        },
    )


def processed(
    span: Span, queue: str, actor: str, attempt: int, duration: float, outcome: str, error: BaseException | None
) -> None:
    """End a consumer span and count the run; ``duration`` in seconds."""
    details = {**attributes(queue, "process", "process"), "jobkit.actor": actor, "jobkit.outcome": outcome}
    if error is not None:
        details["error.type"] = type(error).__name__
        span.set_attribute("error.type", type(error).__name__)
        with suppress(BaseException):  # it asks the exception for its text, which may raise anything
            span.record_exception(error)
        span.set_status(StatusCode.ERROR, text_of(error))
    span.set_attribute("jobkit.attempt", attempt)
    span.set_attribute("jobkit.outcome", outcome)
    span.end()
    _consumed.add(1, details)
    _process_time.record(duration, details)


def died_unseen(queue: str, actor: str, job_id: str, carrier: Mapping[str, object], error: BaseException) -> None:
    """Trace and count a message that was dead-lettered before any actor saw it; ``actor`` as its sender named it."""
    created_by = trace.get_current_span(_PROPAGATOR.extract(_text_only(carrier))).get_span_context()
    span = _tracer.start_span(
        f"process {queue}",
        context=Context(),
        kind=SpanKind.CONSUMER,
        links=[Link(created_by)] if created_by.is_valid else None,
        attributes={**attributes(queue, "process", "process"), "messaging.message.id": job_id, "jobkit.actor": actor},
    )
    # The name of an actor that nobody has may be anything: as a metric's attribute it would be a series of its own.
    processed(span, queue, "unknown", 0, 0.0, "died", error)


def postponed(queue: str) -> None:
    """Count a delivery that waits for a worker that has its actor."""
    _consumed.add(
        1, {**attributes(queue, "process", "process"), "jobkit.actor": "unknown", "jobkit.outcome": "snoozed"}
    )


def field_ignored(actor: str) -> None:
    """Count a field of a payload that the worker's contract does not have."""
    _ignored_fields.add(1, {"jobkit.actor": actor})


def job_stuck(queue: str, actor: str, interrupt: str) -> None:
    """Count a job that has not ended 5 s after its interrupt; ``interrupt`` is the class that was raised."""
    details = {"messaging.destination.name": queue, "jobkit.actor": actor, "error.type": interrupt}
    _stuck.add(1, details)


def job_dropped(queue: str, actor: str, reason: str) -> None:
    """Count a job that died and whose actor wants no dead letter."""
    _dropped_jobs.add(1, {"messaging.destination.name": queue, "jobkit.actor": actor, "jobkit.reason": reason})


def observation_dropped(event: str) -> None:
    """Count an event that observers are not told of."""
    _dropped_events.add(1, {"jobkit.event": event})


def breaker_changed(name: str, to: str) -> None:
    """Count that a circuit breaker is ``open`` or ``closed`` from now on."""
    _breaker_changes.add(1, {"jobkit.breaker": name, "jobkit.breaker.state": to})


def watch_breakers(look: Callable[[], Iterable[tuple[str, bool]]]) -> None:
    """Report with each export which breakers are open, as ``look`` says."""

    def observe(_options: metrics.CallbackOptions) -> Iterator[metrics.Observation]:
        for name, is_open in look():
            yield metrics.Observation(int(is_open), {"jobkit.breaker": name})

    _meter.create_observable_gauge("jobkit.breaker.open", [observe], description="1 while a circuit breaker is open.")


def trace_id() -> str:
    """The current trace's id as 32 hex digits; empty outside a trace."""
    context = trace.get_current_span().get_span_context()
    return trace.format_trace_id(context.trace_id) if context.is_valid else ""


def _sent_to(queues: Collection[str]) -> dict[str, str]:
    common = dict(attributes(next(iter(queues)), "send", "send"))
    if len(queues) > 1:
        del common["messaging.destination.name"]
    return common


def _text_only(options: Mapping[str, object]) -> dict[str, str]:
    return {name: value for name, value in options.items() if isinstance(value, str)}
