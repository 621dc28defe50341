"""No job runs without a lease, and a job that is done never runs again: the path's first step, and its last."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Final, Protocol

from dramatiq import Message

from jobkit.effects import Buried, Call, Claim, Completed, Effect, Record, Released, Seam, Steps
from jobkit.errors import Poison, StoreUnavailable
from jobkit.execution import SUSPECTED_OPTION, Decision, Execution, Verdict, for_later
from jobkit.leases import HEAD_START, RETRY_RENEWAL
from jobkit.patience import Patience, WorkerStopping
from jobkit.store.base import Answer, Finished, Held, Lease, Suspect
from jobkit.time import milliseconds

#: A copy that finds its job held asks again at least this often, in case the holder has finished early.
LONGEST_DEFERRAL: Final = timedelta(seconds=60)

#: How long a job waits before its last chance where so many more processes have died of late than with the job: then it
#: is not the job that takes them down, and it may pass.
LAST_CHANCE_WAIT: Final = timedelta(seconds=8)
OTHER_DEATHS: Final = 2

#: How long a job on its last chance waits for another such job to end.
LAST_CHANCE_DEFERRAL: Final = timedelta(seconds=2)

#: A job that makes checkpoints may take down more workers than others, but not for ever.
MOST_CRASHES: Final = 10

log = logging.getLogger(__name__)


class Publishes(Protocol):
    """A broker, as the steps see it."""

    def enqueue(self, message: Message[Any], *, delay: int | None = None) -> object:
        """Return once the message is confirmed, to arrive after ``delay`` milliseconds; raises ``SendError``."""


class Store(Protocol):
    """The job store, beside claims and records."""

    def ping(self) -> None:
        """Return if it answers; raises ``StoreUnavailable``."""


class Idempotency:
    """Takes the job's lease before it runs, and records afterwards what became of it.

    Args:
        store: Asked whether it is back.
        broker: Takes the copies of jobs that are held.
        patience: Waits out outages.
        store_was_away: Whether leases may have run out of which their owners do not know yet.
        recent_deaths: How many processes beside this one have died of late.
        max_crashes: A job is poison after this many workers that died with it.
        clock: Seconds that only rise.
    """

    def __init__(
        self,
        store: Store,
        broker: Publishes,
        patience: Patience,
        store_was_away: Callable[[], bool],
        *,
        recent_deaths: Callable[[], int] = lambda: 0,
        max_crashes: int = 3,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._broker = broker
        self._patience = patience
        self._store_was_away = store_was_away
        self._recent_deaths = recent_deaths
        self._max_crashes = max_crashes
        self._clock = clock
        self._last_chance = threading.Lock()

    # ---- before the run

    def claim(self, execution: Execution) -> Steps[Lease | Decision]:
        """Done or dead: answered from the record. Held or not due: a copy comes back. Free: the lease.

        Raises:
            WorkerStopping: the worker stops before the store has answered.
        """
        answer, execution.answer = execution.answer, None  # if it was claimed ahead
        if answer is None:
            if execution.is_stale():
                if execution.unheard:
                    yield from self._give_back(execution)
                return _LEFT
            self._patience.refuse_when_stopping()
            answer = yield from self._ask(execution)
        elif isinstance(answer, Lease) and self._patience.is_stopping:
            yield from self.free(answer)
            self._patience.refuse_when_stopping()
        # With a lease in hand the job runs, whatever has become of the connection: its redelivery finds it held.
        if isinstance(answer, Suspect):
            others = self._recent_deaths() - answer.crashes
            if others >= OTHER_DEATHS and SUSPECTED_OPTION not in execution.message.options:
                return (yield from self._defer(execution, LAST_CHANCE_WAIT, {SUSPECTED_OPTION: 1}))
            answer = yield from self._ask_alone(execution)
        match answer:
            case Lease():
                execution.begin_under(answer)
                return answer
            case Finished():
                return Decision(Verdict.ANSWERED)
            case Held(wait):
                return (yield from self._defer(execution, min(max(wait, timedelta(seconds=1)), LONGEST_DEFERRAL)))
        # Another suspect has the turn in this process.
        return (yield from self._defer(execution, LAST_CHANCE_DEFERRAL))

    def poison(self, lease: Lease) -> Poison | None:
        """Why the job must not run although it is free; None if it may."""
        in_all = lease.crashes + lease.crashes_before
        if lease.crashes >= self._max_crashes or in_all >= MOST_CRASHES:
            return Poison(f"{in_all} workers died while they ran this job")
        return None

    def end(self, execution: Execution) -> None:
        """Give back the turn of a job on its last chance. Every delivery ends here."""
        if execution.alone:
            execution.alone = False
            self._last_chance.release()

    def _ask(self, execution: Execution) -> Steps[Answer]:
        claim = self.request(execution)
        if not self._store_was_away():
            with suppress(StoreUnavailable):
                first: Answer = yield claim
                return first
        try:
            answer: Answer = yield from self._patience.before(lambda: claim, self._owners_first)
        except WorkerStopping:
            yield from self._give_back(execution)
            raise
        return answer

    def _owners_first(self) -> Steps[None]:
        """Wait until owners elsewhere have renewed their leases, and this process its own.

        Leases may have run out in an outage, with their owners at work and nobody to tell it to. And what a process
        takes while no beat of it is answered, it could not keep.

        Raises:
            StoreUnavailable: the outage is not over.
            WorkerStopping: the worker stops before that.
        """
        yield Call(Seam.STORE, "ping", self._store.ping)
        yield self._patience.rest(HEAD_START)
        self._patience.refuse_when_stopping()
        while self._store_was_away():
            yield self._patience.rest(RETRY_RENEWAL)
            self._patience.refuse_when_stopping()

    def _give_back(self, execution: Execution) -> Steps[None]:
        """Free what may have been given, as the answer was lost: it would end by time, and count as a crash.

        It would be given now if it was not, so this waits for its owner too. A process that ends does not wait: it
        declares its own end, and so all that it was given.
        """
        with suppress(StoreUnavailable, WorkerStopping):
            if self._store_was_away():
                yield from self._owners_first()
            unheard = yield self.request(execution)
            if isinstance(unheard, Lease):
                yield Record(unheard, Released())

    def _ask_alone(self, execution: Execution) -> Steps[Answer]:
        """The lease of a job on its last chance, which is given to one job at a time in this process.

        A job that kills its worker takes its neighbours with it, and all of them count a crash. If they came back
        together every time, the innocent would be quarantined with the guilty.
        """
        if not self._last_chance.acquire(blocking=False):
            return Suspect(self._max_crashes - 1)
        execution.alone = True
        return (yield from self._ask(execution))

    def request(self, execution: Execution, ahead: bool = False) -> Claim:
        """How to ask for the job of a delivery, for a thread or ahead of one."""
        due_at, delay = execution.due
        return Claim(
            execution.job,
            execution.owner,
            sent_at=execution.moment,
            job_round=execution.round,
            attempts_before=execution.attempts_before,
            alone_at=self._max_crashes - 1,
            alone=execution.alone,
            due_at=due_at,
            delay=delay,
            instead_of=execution.instead_of,
            ahead=ahead,
            breaker=execution.breaker,
        )

    def _defer(
        self, execution: Execution, delay: timedelta, options: Mapping[str, object] = MappingProxyType({})
    ) -> Steps[Decision]:
        copy = for_later(execution.message, **options)

        def publish() -> Effect:
            if execution.is_stale():
                raise _Stale
            return Call(Seam.BROKER, "publish", lambda: self._broker.enqueue(copy, delay=milliseconds(delay)))

        try:
            yield from self._patience.before(publish)
        except _Stale:
            return _LEFT
        return Decision(Verdict.DEFERRED, delay)

    # ---- after the run

    def record(self, execution: Execution, decision: Decision, lease: Lease) -> Steps[Decision]:
        """Record what was decided; the delivery goes back if the lease has gone to another worker.

        Raises:
            WorkerStopping: the worker's time is over before the store has answered.
        """
        began = self._clock()

        def due_in() -> timedelta:
            # The copy was published a while ago if the store had to be waited for.
            return max(timedelta(), decision.delay - timedelta(seconds=self._clock() - began))

        match decision.verdict:
            case Verdict.COMPLETED:
                make = lambda: Record(lease, Completed(execution.result))  # noqa: E731
            case Verdict.RETRIED:
                make = lambda: Record(lease, Released(due_in(), counted=True, failure=decision.failure))  # noqa: E731
            case Verdict.SNOOZED:
                make = lambda: Record(lease, Released(due_in(), waits_for=decision.waits_for[:500]))  # noqa: E731
            case Verdict.DIED:
                make = lambda: Record(lease, Buried(decision.failure))  # noqa: E731
            case _:
                yield from self.free(lease)
                return decision
        if (yield from self._patience.after(make)):
            return decision
        # Back in the queue, this delivery will find out what the other owner has done.
        log.error("the lease of %s %s went to another worker before its end", lease.job.actor, lease.job.id)
        return Decision(Verdict.HANDED_BACK, error=decision.error)

    def free(self, lease: Lease, end: Released | None = None) -> Steps[None]:
        """Free the lease of a job that goes back to the queue. While the store is away, it ends by time."""
        try:
            yield Record(lease, end or Released())
        except StoreUnavailable as outage:
            log.warning("the lease of a job that is handed back ends by itself: %s", outage)
        except Exception:  # its delivery goes back, whatever it is
            log.exception("the lease of a job that is handed back ends by itself")


class _Stale(Exception):
    """The connection of the delivery is gone."""


_LEFT: Final = Decision(Verdict.HANDED_BACK)  #: to the broker, which delivers the message again
