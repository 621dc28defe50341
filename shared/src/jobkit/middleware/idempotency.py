"""No job runs without a lease, and a job that is done never runs again."""

import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from dramatiq import Broker
from dramatiq.broker import MessageProxy
from dramatiq.middleware import Middleware, MiddlewareError, SkipMessage

from jobkit.claims import Claims, refuse_if_stale
from jobkit.errors import Poison, StoreUnavailable, text_of
from jobkit.execution import Execution, Verdict, begin, execution_of
from jobkit.interrupts import Interrupts
from jobkit.leases import LeaseKeeper
from jobkit.patience import Patience, WorkerStopping
from jobkit.store.base import JobStore, Lease

log = logging.getLogger(__name__)

#: How long a process takes to end after its worker has, with telemetry to flush.
EXIT_TIME = timedelta(seconds=5)

#: A job that makes checkpoints may take down more workers than others, but not for ever.
MOST_CRASHES = 10


class PoisonFound(Poison, MiddlewareError):
    """Poison, as a kind of error that Dramatiq lets out of a hook."""


class Idempotency(Middleware):
    """Takes the job's lease before it runs, and records afterwards what became of it.

    Before: done → the delivery is answered from the record; held by another → a copy comes back later; free → it runs,
    and the lease is renewed meanwhile. The store is down → this thread waits with the job in its hand.

    After: the record is written when everything that follows from the run has been confirmed, and only then is the
    delivery settled. One that is not settled goes back to the queue, whatever went wrong.

    Args:
        store: Keeps the records.
        patience: Waits out outages.
        interrupts: Reaches a running job whose lease was lost.
        ttl: How long a lease lasts without renewal.
        max_crashes: After so many workers that died with it, a job is poison.
    """

    def __init__(
        self,
        store: JobStore,
        patience: Patience,
        interrupts: Interrupts,
        *,
        ttl: timedelta = timedelta(seconds=15),
        max_crashes: int = 3,
    ) -> None:
        self._store = store
        self._patience = patience
        self._keeper = LeaseKeeper(store, interrupts, ttl, patience.tell)
        self._claims = Claims(store, self._keeper, patience, ttl=ttl, max_crashes=max_crashes)
        self._max_crashes = max_crashes

    def before_worker_boot(self, broker: Broker, worker: Any) -> None:  # Any: Dramatiq's Worker, not used
        self._keeper.start()

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        execution = begin(message)
        try:
            refuse_if_stale(execution)
            lease = execution.lease = self._claims.obtain(broker, execution)
            self._keeper.keep(lease, execution.thread)
        except SkipMessage:
            raise
        except WorkerStopping as stopping:
            raise SkipMessage(str(stopping)) from stopping
        except Exception as error:
            # Dramatiq logs what a hook raises and runs the job all the same. This one must not run unprotected.
            log.exception("no lease could be obtained, the job goes back to the queue")
            execution.stumbled = True
            self._let_go(execution)
            self._patience.pause()  # it comes back at once: without a pause this would spin
            raise SkipMessage("no lease could be obtained") from error
        in_all = lease.crashes + lease.crashes_before
        if lease.crashes >= self._max_crashes or in_all >= MOST_CRASHES:
            raise PoisonFound(f"{in_all} workers died while they ran this job")

    def after_process_message(
        self,
        broker: Broker,
        message: MessageProxy,
        *,
        result: object = None,
        exception: BaseException | None = None,
    ) -> None:
        execution = execution_of(message)
        if execution is None:
            begin(message).stumbled = True  # something before this has raised: the job goes back to the queue
            self._patience.pause()
            return
        if message.failed and execution.verdict is Verdict.COMPLETED:
            execution.verdict = Verdict.DIED  # other middleware has rejected it, and the broker dead-letters it
        self._end(execution)

    def after_skip_message(self, broker: Broker, message: MessageProxy) -> None:
        execution = execution_of(message)
        if execution is None:
            return
        if execution.lease is not None:
            # Somebody skipped a job that had its lease: Dramatiq acks it, so it is done, or rejects it, so it is dead.
            execution.verdict = Verdict.DIED if message.failed else Verdict.COMPLETED
            self._end(execution)
        else:
            self._claims.end(execution)

    def after_worker_shutdown(self, broker: Broker, worker: Any) -> None:  # Any: Dramatiq's Worker, not used
        self.abandon()

    def let_lapse(self, lease: Lease) -> None:
        """Do not hand back the job of ``lease``: its process is killed for its sake, and it counts a crash."""
        self._keeper.let_lapse(lease)

    def abandon(self) -> None:
        """Hand back the jobs that still run, shortly before their process ends.

        They are those that no interrupt reaches, as their code does not come back to the interpreter. Without this,
        they would count as crashed.
        """
        for lease in self._keeper.stop():
            self._keeper.forget(lease)
            if not self._free(lease, delay=EXIT_TIME):
                return  # the others would have to wait as long

    def _end(self, execution: Execution) -> None:
        """Record what became of the job, and let its lease go."""
        if execution.lease is not None:
            self._keeper.run_has_ended(execution.lease)
        try:
            self._record(execution)
        except WorkerStopping:
            execution.verdict = Verdict.HANDED_BACK
        except BaseException:
            log.exception("what became of the job could not be recorded, so it goes back to the queue")
            execution.stumbled = True
            execution.verdict = Verdict.HANDED_BACK
            self._patience.pause()  # it comes back at once: without a pause this would spin
        finally:
            if execution.lease is not None:
                self._keeper.forget(execution.lease)
            self._claims.end(execution)

    def _record(self, execution: Execution) -> None:
        lease, verdict, store = execution.lease, execution.verdict, self._store
        if lease is None or verdict is None:
            self._hand_back(execution)
            return
        failure = _failure_of(execution)
        transitions: dict[Verdict, Callable[[], bool]] = {
            Verdict.COMPLETED: lambda: store.complete(lease, execution.result),
            Verdict.RETRIED: lambda: store.release(lease, delay=execution.due_in(), counted=True, failure=failure),
            Verdict.SNOOZED: lambda: store.release(
                lease, delay=execution.due_in(), counted=False, waits_for=execution.waits_for[:500]
            ),
            Verdict.DIED: lambda: store.bury(lease, failure=failure),
        }
        if verdict not in transitions:
            self._hand_back(execution)
        elif self._patience.see_through(transitions[verdict]):
            execution.settle(verdict)
        else:
            # Back in the queue, this delivery will find out what the other owner has done.
            log.error("the lease of %s %s went to another worker before its end", lease.job.actor, lease.job.id)
            self._hand_back(execution)

    def _hand_back(self, execution: Execution) -> None:
        execution.verdict = Verdict.HANDED_BACK
        if execution.lease is not None:
            # A mistake of ours after a run counts as an attempt: else the job would be done again and again.
            failure = _failure_of(execution) if execution.stumbled else ""
            self._free(execution.lease, delay=timedelta(), counted=execution.stumbled, failure=failure)

    def _let_go(self, execution: Execution) -> None:
        """Free the lease of a job that was not let in."""
        if execution.lease is not None:
            self._keeper.forget(execution.lease)
            self._free(execution.lease, delay=timedelta())
            execution.lease = None

    def _free(self, lease: Lease, *, delay: timedelta, counted: bool = False, failure: str = "") -> bool:
        """Whether the store has answered."""
        try:
            self._store.release(lease, delay=delay, counted=counted, failure=failure)
        except StoreUnavailable as outage:
            log.warning("the lease of a job that is handed back ends by itself: %s", outage)
            return False
        return True


def _failure_of(execution: Execution) -> str:
    shown = execution.shown or execution.error
    return f"{type(shown).__name__}: {text_of(shown)}"[:500] if shown else ""
