"""What follows from a failure: another attempt later, or the dead-letter queue."""

import logging
import time
from datetime import timedelta
from typing import Any, Protocol, runtime_checkable

from dramatiq import Broker, Message
from dramatiq.broker import MessageProxy
from dramatiq.errors import RateLimitExceeded
from dramatiq.middleware import Middleware, Shutdown, SkipMessage

from jobkit import telemetry
from jobkit.deadletters import Failure, Reason
from jobkit.errors import OUTAGES, BadPayload, LeaseLost, NewerContract, PermanentError, Poison, Retry
from jobkit.execution import ATTEMPTS_OPTION, DEFERRED_OPTION, Execution, Verdict, execution_of
from jobkit.patience import Patience, WorkerStopping
from jobkit.retry import RetryPolicy, exponential
from jobkit.time import milliseconds

DEFAULT_POLICY = exponential()

#: When a job that met an outage of the broker or the store runs again.
OUTAGE_DELAY = timedelta(seconds=5)

_REASONS: tuple[tuple[type[BaseException], Reason], ...] = (
    (Poison, Reason.POISON),
    (BadPayload, Reason.BAD_PAYLOAD),
    (NewerContract, Reason.NEWER_CONTRACT),
    (PermanentError, Reason.PERMANENT),
)

log = logging.getLogger(__name__)


@runtime_checkable
class Buries(Protocol):
    """A broker that keeps dead letters with a record of their failure."""

    def bury(self, message: Message[Any], failure: Failure) -> None:
        """Return once the dead letter is durable."""


class Retries(Middleware):
    """Decides what a run's end means and makes sure that it follows, before the record is written and the ack sent.

    A retry is published with its delay and confirmed; a dead letter is published with its record and confirmed. While
    the broker refuses either, this thread waits with the job in its hand: nothing is acked, no attempt is burnt.
    Listed after ``Idempotency``, so that its hook after the job runs first.
    """

    def __init__(self, patience: Patience, policy: RetryPolicy = DEFAULT_POLICY) -> None:
        self._patience = patience
        self._policy = policy

    @property
    def actor_options(self) -> set[str]:
        return {"retry"}

    def after_process_message(
        self,
        broker: Broker,
        message: MessageProxy,
        *,
        result: object = None,
        exception: BaseException | None = None,
    ) -> None:
        execution = execution_of(message)
        if execution is None or execution.lease is None:
            return
        execution.error = exception
        verdict = self._decide(broker, execution, exception)
        try:
            self._follow(broker, message, execution, verdict)
        except WorkerStopping as stopping:
            log.warning("handed back, because what follows could not be published: %s", stopping)
        except (PermanentError, ValueError) as error:
            # It would fail in the same way for ever: a delay out of range, for one.
            execution.error, execution.reason = error, Reason.PERMANENT
            self._follow(broker, message, execution, Verdict.DIED)
        except Exception:
            log.exception("handed back, because what follows could not be published")
            self._patience.pause()  # it comes back at once: without a pause this would spin

    def _decide(self, broker: Broker, execution: Execution, error: BaseException | None) -> Verdict:
        if error is None:
            return Verdict.COMPLETED
        if isinstance(error, LeaseLost | Shutdown | SkipMessage | WorkerStopping):
            return Verdict.HANDED_BACK
        policy: RetryPolicy = broker.get_actor(execution.job.actor).options.get("retry", self._policy)
        wait = self._postponement(execution, error, policy)
        if wait is not None:
            execution.delay = wait
            return Verdict.SNOOZED
        execution.reason = next((reason for kind, reason in _REASONS if isinstance(error, kind)), None)
        if execution.reason is None and not policy.retries(error):
            execution.reason = Reason.NOT_RETRIED
        elif execution.reason is None and execution.attempt >= policy.attempts:
            execution.reason = Reason.EXHAUSTED
        if execution.reason is not None:
            return Verdict.DIED
        execution.delay = policy.delay(execution.attempt)
        return Verdict.RETRIED

    @staticmethod
    def _postponement(execution: Execution, error: BaseException, policy: RetryPolicy) -> timedelta | None:
        """After what time the job runs again without an attempt used up; None if it is the job that failed."""
        if isinstance(error, Retry):
            return error.after
        if isinstance(error, RateLimitExceeded):  # by one of Dramatiq's own limiters
            return policy.delay(execution.attempt)
        if policy.attempts == 1:
            return None  # whoever says never means that nothing is done again, whosever fault it was
        if isinstance(error, OUTAGES):
            return OUTAGE_DELAY
        return execution.excused_for if policy.retries(error) else None

    def _follow(self, broker: Broker, message: MessageProxy, execution: Execution, verdict: Verdict) -> None:
        if verdict is Verdict.RETRIED or verdict is Verdict.SNOOZED:
            attempts = execution.attempt - (verdict is Verdict.SNOOZED)
            self._run_later(broker, execution, attempts)
        elif verdict is Verdict.DIED:
            self._bury(broker, message, execution)
        execution.verdict = verdict

    def _run_later(self, broker: Broker, execution: Execution, attempts: int) -> None:
        copy = execution.message.copy(options={ATTEMPTS_OPTION: attempts, DEFERRED_OPTION: True})
        delay = max(milliseconds(execution.delay), 1)
        self._patience.see_through(lambda: broker.enqueue(copy, delay=delay))
        execution.published = time.monotonic()

    def _bury(self, broker: Broker, message: MessageProxy, execution: Execution) -> None:
        error, reason, lease = execution.error, execution.reason, execution.lease
        if error is None or reason is None or lease is None:
            raise AssertionError("only a failed run with a reason is buried")
        failure = Failure.of(
            error,
            reason,
            actor=execution.job.actor,
            queue=execution.message.queue_name,
            died_at=int(time.time() * 1000),
            attempts=lease.attempt - isinstance(error, Poison),  # a poison job was not run again
            sent_at=execution.message.message_timestamp,
            first_failed_at=lease.first_failed_at,
            trace_id=telemetry.trace_id(),
        )
        if isinstance(broker, Buries):
            self._patience.see_through(lambda: broker.bury(execution.message, failure))
        else:
            message.fail()  # such a broker has a dead-letter queue of its own, for the bare message
