"""Who may run a job: the delivery that gets its lease."""

import threading
from contextlib import suppress
from datetime import timedelta

from dramatiq import Broker
from dramatiq.middleware import SkipMessage

from jobkit.errors import StoreUnavailable
from jobkit.execution import ATTEMPTS_OPTION, Execution, Verdict, for_later
from jobkit.leases import HEAD_START, LeaseKeeper
from jobkit.patience import Patience, WorkerStopping
from jobkit.store.base import Finished, Held, JobStore, Lease, Suspect
from jobkit.time import milliseconds

#: A copy that finds its job held asks again at least this often, in case the holder has finished early.
LONGEST_DEFERRAL = timedelta(seconds=60)

#: How long a job on its last chance waits for another such job to end.
LAST_CHANCE_DEFERRAL = timedelta(seconds=2)


class Claims:
    """Asks the store for leases on behalf of deliveries, and puts back those that come too early.

    Args:
        store: Keeps the records.
        keeper: Knows of outages in which leases may have run out.
        patience: Waits out outages.
        ttl: How long a lease lasts without renewal.
        max_crashes: After so many workers that died with it, a job is poison.
    """

    def __init__(
        self, store: JobStore, keeper: LeaseKeeper, patience: Patience, *, ttl: timedelta, max_crashes: int
    ) -> None:
        self._store = store
        self._keeper = keeper
        self._patience = patience
        self._ttl = ttl
        self._max_crashes = max_crashes
        self._last_chance = threading.Lock()

    def obtain(self, broker: Broker, execution: Execution) -> Lease:
        """Return the lease.

        Raises:
            SkipMessage: the job must not run now, or never again; the delivery is settled, unless it is stale.
            WorkerStopping: the worker stops before the store has answered.
        """
        self._patience.refuse_when_stopping()
        # With a lease in hand the job runs, whatever has become of the connection: its redelivery finds it held.
        answer = self._ask(execution)
        if isinstance(answer, Finished):
            execution.settle(Verdict.ANSWERED)
            raise SkipMessage(f"{execution.job.actor} {execution.job.id} is {answer.state} already")
        if isinstance(answer, Held):
            self._defer(broker, execution, answer.wait)
            raise SkipMessage(f"{execution.job.actor} {execution.job.id} is held ({answer.state})")
        if isinstance(answer, Suspect):
            return self._obtain_alone(broker, execution)
        return answer

    def end(self, execution: Execution) -> None:
        """Give back what the delivery has taken: the turn of a job on its last chance. Every delivery ends here."""
        if execution.alone:
            execution.alone = False
            self._last_chance.release()

    def _obtain_alone(self, broker: Broker, execution: Execution) -> Lease:
        """The lease of a job on its last chance, which is given to one job at a time in this process.

        A job that kills its worker takes its neighbours with it, and all of them count a crash. If they came back
        together every time, the innocent would be quarantined with the guilty.
        """
        if self._last_chance.acquire(blocking=False):
            execution.alone = True
            answer = self._patience.wait_out(lambda: self._acquire(execution))
            if isinstance(answer, Lease):
                return answer
        self._defer(broker, execution, LAST_CHANCE_DEFERRAL)
        raise SkipMessage(f"{execution.job.actor} {execution.job.id} waits for another suspect to end")

    def _ask(self, execution: Execution) -> Lease | Held | Suspect | Finished:
        if not self._keeper.store_was_away():
            with suppress(StoreUnavailable):
                return self._acquire(execution)
        try:
            # Leases may have run out meanwhile, with their owners at work and nobody to tell it to. Those go first.
            self._patience.wait_out(self._store.ping)
            self._patience.pause(HEAD_START)
            self._patience.refuse_when_stopping()
            return self._patience.wait_out(lambda: self._acquire(execution))
        except WorkerStopping:
            self._give_back_unheard(execution)
            raise

    def _give_back_unheard(self, execution: Execution) -> None:
        """Free a lease that was given though its answer was lost: it would end by time, and count as a crash."""
        with suppress(StoreUnavailable):
            answer = self._acquire(execution)
            if isinstance(answer, Lease):
                self._store.release(answer, delay=timedelta(), counted=False)

    def _acquire(self, execution: Execution) -> Lease | Held | Suspect | Finished:
        attempts = execution.message.options.get(ATTEMPTS_OPTION, 0)
        due_at, delay = execution.due
        return self._store.acquire(
            execution.job,
            execution.owner,
            ttl=self._ttl,
            sent_at=execution.round,
            attempts_before=attempts if isinstance(attempts, int) and 0 <= attempts < 10_000 else 0,
            revived=execution.revived,
            alone_at=self._max_crashes - 1,
            alone=execution.alone,
            due_at=due_at,
            delay=delay,
        )

    def _defer(self, broker: Broker, execution: Execution, wait: timedelta) -> None:
        delay = min(max(wait, timedelta(seconds=1)), LONGEST_DEFERRAL)
        copy = for_later(execution.message)

        def publish() -> None:
            refuse_if_stale(execution)
            broker.enqueue(copy, delay=milliseconds(delay))

        self._patience.wait_out(publish)
        execution.delay = delay
        execution.settle(Verdict.DEFERRED)


def refuse_if_stale(execution: Execution) -> None:
    """Raise ``SkipMessage`` if the connection of a delivery is gone: the broker delivers the message again."""
    if execution.is_stale():
        raise SkipMessage(f"{execution.job.actor} {execution.job.id} came over a connection that is gone")
