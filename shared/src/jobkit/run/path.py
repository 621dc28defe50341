"""A job's path through a worker, from its delivery to its settlement, on one page.

Each ``yield`` asks something of the store, the broker or the clock; ``jobkit.effects`` has the words. What the steps do
is told where their names lead: ``middleware/idempotency.py``, ``breakers.py``, ``retries.py``, ``decision.py``.

The order is the guarantee. Nothing runs without a lease. What follows from a run is published, and confirmed, before
the run is recorded; it is recorded before the delivery is acked. Whoever dies in between leaves a delivery that comes
back, and finds in the record how far the one before has come.
"""

import logging
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta

from jobkit.breaker.breaker import CircuitBreaker
from jobkit.decision import decide
from jobkit.effects import Outcome, Released, Run, Steps
from jobkit.execution import Decision, Execution, Verdict
from jobkit.leases import LeaseKeeper
from jobkit.middleware.breakers import Breakers
from jobkit.middleware.idempotency import Idempotency
from jobkit.middleware.retries import Retries
from jobkit.patience import Patience, WorkerStopping
from jobkit.retry import RetryPolicy
from jobkit.run.watch import Watch
from jobkit.store.base import Lease
from jobkit.waits import Limits

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rules:
    """What an actor was declared with."""

    retry: RetryPolicy
    time_limit: timedelta
    breaker: CircuitBreaker | None


@dataclass(frozen=True)
class Path:
    """The steps, and what they share in one worker process."""

    idempotency: Idempotency
    breakers: Breakers
    retries: Retries
    keeper: LeaseKeeper
    patience: Patience
    limits: Limits
    watch: Watch = nullcontext

    def walk(self, execution: Execution, rules: Rules) -> Steps[Decision]:
        """Take one delivery all the way; what becomes of it stands in ``execution.ended`` too."""
        with self.watch(execution):
            try:
                execution.ended = yield from self._claim(execution, rules)
            finally:
                self.idempotency.end(execution)
        return execution.ended

    def _claim(self, execution: Execution, rules: Rules) -> Steps[Decision]:
        """Done: answered. Held: a copy comes back later. Free: on to the guard, with a lease that is kept alive."""
        lease: Lease | None = None
        try:
            answer = yield from self.idempotency.claim(execution)
            if isinstance(answer, Decision):
                return answer
            lease = execution.lease = answer
            self.keeper.keep(lease, execution.thread)
        except WorkerStopping as stopping:
            return Decision(Verdict.HANDED_BACK, error=stopping)
        except Exception as error:  # whatever it is, the job must not run without a lease
            log.exception("no lease could be obtained, the job goes back to the queue")
            return (yield from self._stumble(error, lease, Released()))
        try:
            return (yield from self._guard(execution, rules, lease))
        finally:
            self.keeper.forget(lease)

    def _guard(self, execution: Execution, rules: Rules, lease: Lease) -> Steps[Decision]:
        """Poison dies, a job whose breaker is open waits, all others run."""
        refusal: BaseException | None = self.idempotency.poison(lease)
        try:
            if refusal is None and rules.breaker is not None:
                refusal = yield from self.breakers.guard(execution, rules.breaker, rules.time_limit)
        except WorkerStopping as stopping:
            yield from self.idempotency.free(lease)
            return Decision(Verdict.HANDED_BACK, error=stopping)
        except Exception as error:
            log.exception("the breaker could not be asked, the job goes back to the queue")
            return (yield from self._stumble(error, lease, Released()))
        if refusal is not None:
            return (yield from self._follow(execution, lease, decide(execution, refusal, rules.retry, self.limits)))
        return (yield from self._run(execution, rules, lease))

    def _run(self, execution: Execution, rules: Rules, lease: Lease) -> Steps[Decision]:
        """Run it, tell its breaker, and decide what its end means."""
        self.keeper.run_begins(lease)  # a crash counts from here on
        outcome: Outcome = yield Run()
        self.keeper.run_has_ended(lease)  # which goes on renewing it, as the job is being recorded
        excused: timedelta | None = None
        if rules.breaker is not None:
            excused = yield from self.breakers.learn(execution, rules.breaker, outcome.error)
        if outcome.skipped or outcome.error is None:  # other middleware may have skipped it, or rejected it
            verdict = Verdict.DIED if outcome.rejected else Verdict.COMPLETED
            return (yield from self._follow(execution, lease, Decision(verdict)))
        decision = decide(execution, outcome.error, rules.retry, self.limits, excused)
        return (yield from self._follow(execution, lease, decision))

    def _follow(self, execution: Execution, lease: Lease, decision: Decision) -> Steps[Decision]:
        """First publish what follows, then record it; the delivery is acked after that."""
        try:
            decision = yield from self.retries.publish(execution, decision, lease)
            return (yield from self.idempotency.record(execution, decision, lease))
        except WorkerStopping as stopping:
            log.warning("handed back, because what became of the job could not be published or recorded: %s", stopping)
            yield from self.idempotency.free(lease)
            return Decision(Verdict.HANDED_BACK, error=decision.error)
        except Exception as error:  # a mistake of ours, or an answer that nobody foresaw
            log.exception("returned to the queue, because what became of the job could not be published or recorded")
            # It counts as an attempt: else the job would be done again and again.
            return (yield from self._stumble(error, lease, Released(counted=True, failure=decision.failure)))

    def _stumble(self, error: BaseException, lease: Lease | None, end: Released) -> Steps[Decision]:
        if lease is not None:
            yield from self.idempotency.free(lease, end)
        yield self.patience.rest()  # it comes back at once: without a pause this would spin
        return Decision(Verdict.HANDED_BACK, error=error, stumbled=True)
