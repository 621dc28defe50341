"""What follows from a failure: another attempt later, or the dead-letter queue. Published before it is recorded."""

import time
from collections.abc import Callable
from typing import Any, Protocol

from dramatiq import Message

from jobkit import telemetry
from jobkit.deadletters import Failure, Reason
from jobkit.effects import Call, Seam, Steps
from jobkit.errors import PermanentError, Poison
from jobkit.execution import ATTEMPTS_OPTION, Decision, Execution, Verdict, after_a_run
from jobkit.patience import Patience
from jobkit.retry import exponential
from jobkit.store.base import Lease
from jobkit.time import milliseconds

DEFAULT_POLICY = exponential()


class Buries(Protocol):
    """A broker that keeps dead letters with a record of their failure."""

    def enqueue(self, message: Message[Any], *, delay: int | None = None) -> object:
        """Return once the message is confirmed, to arrive after ``delay`` milliseconds; raises ``SendError``."""

    def bury(self, message: Message[Any], failure: Failure) -> None:
        """Return once the dead letter is durable; raises ``SendError``."""


class Retries:
    """Makes sure that what was decided follows, before the record is written and the ack sent.

    While the broker does not take it, the thread waits with the job in its hand: nothing is acked, no attempt is burnt.

    Args:
        broker: Takes the copies and the dead letters.
        patience: Waits out outages.
        clock: Seconds since the epoch.
    """

    def __init__(self, broker: Buries, patience: Patience, clock: Callable[[], float] = time.time) -> None:
        self._broker = broker
        self._patience = patience
        self._clock = clock

    def publish(self, execution: Execution, decision: Decision, lease: Lease) -> Steps[Decision]:
        """Publish what follows; the job dies of what can never be published.

        Raises:
            WorkerStopping: the worker's time is over before the broker has answered.
        """
        try:
            yield from self._follow(execution, decision, lease)
        except (PermanentError, ValueError) as error:  # it would fail in the same way each time: a delay out of range
            decision = Decision(Verdict.DIED, reason=Reason.PERMANENT, error=decision.error, shown=error)
            yield from self._follow(execution, decision, lease)
        return decision

    def _follow(self, execution: Execution, decision: Decision, lease: Lease) -> Steps[None]:
        if decision.verdict is Verdict.RETRIED or decision.verdict is Verdict.SNOOZED:
            attempts = execution.attempt - (decision.verdict is Verdict.SNOOZED)
            copy = after_a_run(execution.message, **{ATTEMPTS_OPTION: attempts}, **decision.options)
            delay = max(milliseconds(decision.delay), 1)
            publish = Call(Seam.BROKER, "publish", lambda: self._broker.enqueue(copy, delay=delay))
        elif not execution.keeps_dead_letter:
            return
        elif decision.verdict is Verdict.DIED and decision.shown is not None and decision.reason is not None:
            failure = Failure.of(
                decision.shown,
                decision.reason,
                actor=execution.job.actor,
                queue=execution.message.queue_name,
                died_at=int(self._clock() * 1000),
                attempts=execution.attempt - isinstance(decision.error, Poison),  # a poison job was not run again
                sent_at=execution.message.message_timestamp,
                first_failed_at=lease.first_failed_at,
                job_round=execution.round,
                trace_id=telemetry.trace_id(),
                group=decision.error,
            )
            publish = Call(Seam.BROKER, "bury", lambda: self._broker.bury(execution.message, failure))
        else:
            return
        yield from self._patience.after(lambda: publish)
