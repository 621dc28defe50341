"""A span and the metrics for each run of a job."""

import time

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
        if execution is not None and execution.dropped and verdict is Verdict.DIED:
            telemetry.job_dropped(message.queue_name, message.actor_name, str(execution.reason))
        context.detach(token)

    def after_skip_message(self, broker: Broker, message: MessageProxy) -> None:
        self.after_process_message(broker, message)
