"""What follows from a failure: another attempt later, or the dead-letter queue."""

import logging
import time
from typing import Any, Protocol, runtime_checkable

from dramatiq import Broker, Message
from dramatiq.broker import MessageProxy
from dramatiq.middleware import Middleware

from jobkit import telemetry
from jobkit.deadletters import Failure, Reason
from jobkit.decision import Decision, decide
from jobkit.errors import PermanentError, Poison
from jobkit.execution import ATTEMPTS_OPTION, Execution, Verdict, after_a_run, execution_of
from jobkit.patience import Patience, WorkerStopping
from jobkit.retry import RetryPolicy, exponential
from jobkit.time import milliseconds
from jobkit.waits import FIRST_WAIT, Limits

DEFAULT_POLICY = exponential()

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

    def __init__(self, patience: Patience, policy: RetryPolicy = DEFAULT_POLICY, limits: Limits | None = None) -> None:
        self._patience = patience
        self._policy = policy
        self._limits = limits or Limits()

    @property
    def actor_options(self) -> set[str]:
        return {"retry", "dead_letter"}

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
        decision = self._decide(broker, execution, exception)
        try:
            try:
                self._follow(broker, message, execution, decision)
            except (PermanentError, ValueError) as error:
                # It would fail in the same way each time: a delay out of range, for one.
                self._follow(broker, message, execution, Decision(Verdict.DIED, reason=Reason.PERMANENT, shown=error))
        except WorkerStopping as stopping:
            log.warning("handed back, because what follows could not be published: %s", stopping)
        except BaseException:  # this thread and the message outlive whatever it is
            log.exception("returned to the queue, because what follows could not be published")
            execution.stumbled = True
            self._patience.pause()  # it comes back at once: without a pause this would spin

    def _decide(self, broker: Broker, execution: Execution, error: BaseException | None) -> Decision:
        policy: RetryPolicy = broker.get_actor(execution.job.actor).options.get("retry", self._policy)
        try:
            return decide(execution, error, policy, self._limits)
        except BaseException:  # the failure is somebody's class, and its attributes may raise anything
            log.exception("what follows from a failure could not be decided, so it counts as an attempt")
            if execution.attempt >= policy.attempts:
                return Decision(Verdict.DIED, reason=Reason.EXHAUSTED, shown=error)
            return Decision(Verdict.RETRIED, FIRST_WAIT, shown=error)

    def _follow(self, broker: Broker, message: MessageProxy, execution: Execution, decision: Decision) -> None:
        execution.delay, execution.reason, execution.shown = decision.delay, decision.reason, decision.shown
        execution.waits_for = decision.waits_for
        if decision.verdict is Verdict.RETRIED or decision.verdict is Verdict.SNOOZED:
            attempts = execution.attempt - (decision.verdict is Verdict.SNOOZED)
            copy = after_a_run(execution.message, **{ATTEMPTS_OPTION: attempts}, **decision.options)
            delay = max(milliseconds(execution.delay), 1)
            self._patience.see_through(lambda: broker.enqueue(copy, delay=delay))
            execution.published = time.monotonic()
        elif decision.verdict is Verdict.DIED:
            self._bury(broker, message, execution)
        execution.verdict = decision.verdict

    def _bury(self, broker: Broker, message: MessageProxy, execution: Execution) -> None:
        error, reason, lease = execution.shown, execution.reason, execution.lease
        if error is None or reason is None or lease is None:
            raise AssertionError("only a failed run with a reason becomes a dead letter")
        if not broker.get_actor(execution.job.actor).options.get("dead_letter", True):
            execution.dropped = True
            return
        failure = Failure.of(
            error,
            reason,
            actor=execution.job.actor,
            queue=execution.message.queue_name,
            died_at=int(time.time() * 1000),
            attempts=execution.attempt - isinstance(execution.error, Poison),  # a poison job was not run again
            sent_at=execution.message.message_timestamp,
            first_failed_at=lease.first_failed_at,
            trace_id=telemetry.trace_id(),
            group=execution.error,
        )
        if isinstance(broker, Buries):
            self._patience.see_through(lambda: broker.bury(execution.message, failure))
        else:
            message.fail()  # such a broker has a dead-letter queue of its own, for the bare message
