"""Jobs whose dependency is down wait for it, and use up no attempts: the steps on both sides of a run."""

import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from dramatiq.middleware import Interrupt, Shutdown, SkipMessage

from jobkit import telemetry
from jobkit.breaker.breaker import CircuitBreaker, Sample
from jobkit.breaker.switches import Closed, Open, Probe, Switches, Tripped
from jobkit.decision import cause_of
from jobkit.effects import Call, Seam, Steps
from jobkit.errors import (
    OUTAGES,
    BadPayload,
    LeaseLost,
    NewerContract,
    PermanentError,
    Poison,
    Snooze,
    StoreUnavailable,
    leaves,
    text_of,
)
from jobkit.execution import Execution
from jobkit.patience import Patience

log = logging.getLogger(__name__)

#: A probe that runs into its time limit still has its end to report.
_REPORT_TIME: Final = timedelta(seconds=15)

#: Characters of the failure that people are shown.
_LONGEST_REASON: Final = 300

#: What says nothing about a dependency: the job has not come to use it, or was not let to.
_SILENT: Final = (BadPayload, NewerContract, Poison, Snooze, SkipMessage, Interrupt, *OUTAGES)


class CircuitOpen(Snooze):
    """The job runs later, because what it depends on is down."""


@dataclass(slots=True)
class _Guard:
    """One breaker, as this process sees it."""

    breaker: CircuitBreaker
    sample: Sample
    seen_open: bool = False
    postponed: int = 0  # runs, since it was seen open first


class Breakers:
    """Asks the actor's breaker before a job runs, and tells it how the job has ended.

    Args:
        switches: The breakers' states.
        patience: Waits out an outage of the store.
        scope: The service, whose breakers these are.
        excused_for: Jobs that were sent longer ago use up attempts like any other: what fails as long as that, whenever
            it probes, may be what is wrong itself.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        switches: Switches,
        patience: Patience,
        scope: str,
        *,
        excused_for: timedelta,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._switches = switches
        self._patience = patience
        self._scope = scope
        self._excused_for = excused_for
        self._clock = clock
        self._guards: dict[str, _Guard] = {}

    def watch(self, breakers: Iterable[CircuitBreaker]) -> None:
        """Know these breakers, and report with each export which of them are open."""
        for breaker in breakers:
            self._guard_of(breaker)
        if self._guards:
            telemetry.watch_breakers(self._look)

    def full_name(self, breaker: CircuitBreaker) -> str:
        """Return what its switch is called: ``<service>/<name>``."""
        return f"{self._scope}/{breaker.name}"

    def guard(self, execution: Execution, breaker: CircuitBreaker, limit: timedelta) -> Steps[CircuitOpen | None]:
        """Why the job must not run now; None if it may.

        The lease has said whether the breaker is open. If not, nothing is asked here, unless this process has seen it
        open: that may have been after a claim ahead.

        Args:
            execution: The delivery.
            breaker: That of its actor.
            limit: The actor's time limit.

        Raises:
            WorkerStopping: the worker stops before the store has answered.
        """
        guard, owner, lease = self._guard_of(breaker), execution.owner, execution.lease
        if lease is not None and lease.breaker_open is False and not guard.seen_open:
            return None
        name, probe_for = self._name(guard), limit + _REPORT_TIME
        ask = Call(Seam.STORE, "ask breaker", lambda: self._switches.ask(name, owner, probe_for=probe_for))
        match (yield from self._patience.before(lambda: ask)):
            case Closed() if guard.seen_open:
                self._note_closed(guard)
            case Open(wait):
                self._note_open(guard)
                guard.postponed += 1
                return CircuitOpen(_spread(wait), f"breaker {breaker.name} is open")
            case Probe():
                self._note_open(guard)
                execution.probes = True
                log.info("breaker %s: this job probes", breaker.name)
        return None

    def learn(
        self, execution: Execution, breaker: CircuitBreaker, error: BaseException | None
    ) -> Steps[timedelta | None]:
        """Tell the breaker of a job's end; for how long the job is excused, None if it is not."""
        guard = self._guard_of(breaker)
        try:
            wait = yield from self._tell(guard, execution, error)
        except StoreUnavailable as outage:
            log.warning("breaker %s does not hear of this job: %s", breaker.name, outage)
            return None
        except Exception:  # the job's end must be recorded, whatever becomes of the breaker
            log.exception("breaker %s does not hear of this job", breaker.name)
            return None
        now = self._clock() * 1000
        sent_at = execution.message.message_timestamp or now  # a sender need not say when
        return _spread(wait) if wait is not None and timedelta(milliseconds=now - sent_at) < self._excused_for else None

    def _tell(self, guard: _Guard, execution: Execution, error: BaseException | None) -> Steps[timedelta | None]:
        name, owner, probes = self._name(guard), execution.owner, execution.probes
        if error is not None and _trips(guard.breaker, error):
            burst = guard.sample.add(execution.job.id)
            if probes or burst:
                return (yield from self._trip(guard, execution, error))
            # Opened elsewhere meanwhile, perhaps, with this job and others claimed before that.
            wait: timedelta | None = yield Call(Seam.STORE, "look at breaker", lambda: self._switches.look(name))
            if wait is not None:
                self._note_open(guard)
            return wait
        if error is None:
            guard.sample.add()
        if probes and _is_silent(error):
            yield Call(Seam.STORE, "give up probe", lambda: self._switches.give_up_probe(name, owner))
        elif probes and (yield Call(Seam.STORE, "close breaker", lambda: self._switches.close(name, owner))):
            telemetry.breaker_changed(name, "closed")
            self._note_closed(guard)
        return None

    @staticmethod
    def _note_open(guard: _Guard) -> None:
        # A line for each change, and none for each job that waits: there may be thousands.
        if not guard.seen_open:
            guard.seen_open = True
            log.warning("breaker %s is open: jobs wait for it, without an attempt used up", guard.breaker.name)

    @staticmethod
    def _note_closed(guard: _Guard) -> None:
        log.info("breaker %s is closed; runs postponed here: %d", guard.breaker.name, guard.postponed)
        guard.seen_open, guard.postponed = False, 0
        guard.sample.forget()  # what was counted before the outage is over must not open it again

    def _trip(self, guard: _Guard, execution: Execution, error: BaseException) -> Steps[timedelta]:
        name, breaker, owner = self._name(guard), guard.breaker, execution.owner
        reason = f"{type(error).__name__}: {text_of(error)}"[:_LONGEST_REASON]
        tripped: Tripped = yield Call(
            Seam.STORE,
            "trip breaker",
            lambda: self._switches.trip(name, owner, pause=breaker.pause, longest=breaker.longest, reason=reason),
        )
        guard.seen_open = True
        if tripped.anew:
            telemetry.breaker_changed(name, "open")
            why = "its probe has failed" if execution.probes else f"{breaker.failures} jobs have failed"
            seconds, kind = tripped.wait.total_seconds(), type(error).__name__
            log.error("breaker %s is open for %.0f s: %s, the last by %s", breaker.name, seconds, why, kind)
        return tripped.wait

    def _guard_of(self, breaker: CircuitBreaker) -> _Guard:
        guard = self._guards.get(breaker.name)
        return guard or self._guards.setdefault(breaker.name, _Guard(breaker, Sample(breaker)))

    def _name(self, guard: _Guard) -> str:
        return self.full_name(guard.breaker)

    def _look(self) -> Iterator[tuple[str, bool]]:
        for guard in self._guards.values():
            with suppress(StoreUnavailable):
                yield self._name(guard), self._switches.look(self._name(guard)) is not None


def _trips(breaker: CircuitBreaker, error: BaseException) -> bool:
    """Whether the failure speaks against the dependency: a group if one of its parts does and none is permanent."""
    failures = [cause_of(leaf) for leaf in leaves(error)]
    if any(isinstance(one, PermanentError | LeaseLost | Shutdown) for one in failures):
        return False
    try:
        return any(not isinstance(one, Snooze) and breaker.trips(one) for one in failures)
    except BaseException:  # a mistake in the breaker's rule must not stand in the way of the job's
        log.exception("trips_on of breaker %s could not decide, so it does not", breaker.name)
        return False


def _is_silent(error: BaseException | None) -> bool:
    """Whether the end of a probe tells nothing about the dependency."""
    return error is not None and any(isinstance(leaf, _SILENT) for leaf in leaves(error))


def _spread(wait: timedelta) -> timedelta:
    """No less than ``wait``, and not for all jobs the same: they would come back together."""
    return max(wait, timedelta(seconds=1)) * random.uniform(1.0, 1.5)  # noqa: S311  jitter, not a secret
