"""A span and the metrics for each run of a job."""

import time
from collections.abc import Iterator

from opentelemetry import context, trace

from jobkit import telemetry
from jobkit.execution import Execution, Verdict, was_delayed


def span(execution: Execution) -> Iterator[None]:
    """Open a consumer span around everything that happens with a delivery, and count it by its outcome."""
    message = execution.message
    opened = telemetry.start_processing(message, first=not was_delayed(message))
    # Where nobody traces, there is nothing that its lines and its jobs could belong to.
    token = context.attach(trace.set_span_in_context(opened)) if opened.get_span_context().is_valid else None
    started = time.perf_counter()
    try:
        yield
    finally:
        ended = execution.ended
        outcome = ended.verdict if ended else Verdict.HANDED_BACK
        duration, error = time.perf_counter() - started, ended.error if ended else None
        queue, actor = message.queue_name, message.actor_name
        telemetry.processed(opened, queue, actor, execution.attempt, duration, outcome.value, error)
        if execution.was_dropped and ended is not None:
            telemetry.job_dropped(queue, actor, str(ended.reason))
        if token is not None:
            context.detach(token)
