"""Jobs whose dependency is down wait for it, and use up no attempts."""

import logging
import random
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from dramatiq import Actor, Broker
from dramatiq.broker import MessageProxy
from dramatiq.middleware import Interrupt, Middleware, MiddlewareError, Shutdown, SkipMessage

from jobkit import telemetry
from jobkit.breaker.breaker import CircuitBreaker, Sample
from jobkit.breaker.switches import Closed, Open, Probe, Switches
from jobkit.decision import cause_of
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
from jobkit.execution import Execution, execution_of
from jobkit.middleware.time_limit import DEFAULT_TIME_LIMIT
from jobkit.patience import Patience

log = logging.getLogger(__name__)

#: A probe that runs into its time limit still has its end to report.
_REPORT_TIME: Final = timedelta(seconds=15)

#: Characters of the failure that people are shown.
_LONGEST_REASON: Final = 300

#: What says nothing about a dependency: the job has not come to use it, or was not let to.
_SILENT: Final = (BadPayload, NewerContract, Poison, Snooze, SkipMessage, Interrupt, *OUTAGES)


class CircuitOpen(Snooze, MiddlewareError):
    """The job runs later, because what it depends on is down."""


@dataclass(slots=True)
class _Guard:
    """One breaker, as this process sees it."""

    breaker: CircuitBreaker
    sample: Sample
    seen_open: bool = False
    postponed: int = 0  # runs, since it was seen open first


class Breakers(Middleware):
    """Asks the actor's breaker before a job runs, and tells it how the job has ended.

    Listed below ``Idempotency``, so that a job that waits has its record, and below ``Retries``, whose decision comes
    after this has said whether the job is excused.

    Args:
        switches: The breakers' states.
        patience: Waits out an outage of the store.
        scope: The service, whose breakers these are.
        excused_for: Jobs that were sent longer ago use up attempts like any other: what fails as long as that, whenever
            it probes, may be what is wrong itself.
    """

    def __init__(self, switches: Switches, patience: Patience, scope: str, *, excused_for: timedelta) -> None:
        self._switches = switches
        self._patience = patience
        self._scope = scope
        self._excused_for = excused_for
        self._guards: dict[str, _Guard] = {}
        self._probes: set[str] = set()  # owners

    @property
    def actor_options(self) -> set[str]:
        return {"breaker"}

    def before_declare_actor(self, broker: Broker, actor: Actor[Any, Any]) -> None:
        breaker = actor.options.get("breaker")
        if breaker is not None:
            self._guards.setdefault(breaker.name, _Guard(breaker, Sample(breaker)))

    def before_worker_boot(self, broker: Broker, worker: object) -> None:
        if self._guards:
            telemetry.watch_breakers(self._look)

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        guard, execution = self._guard_of(broker, message)
        if guard is None or execution is None:
            return
        limit: timedelta = broker.get_actor(message.actor_name).options.get("time_limit", DEFAULT_TIME_LIMIT)
        name, owner = self._name(guard), execution.owner
        answer = self._patience.wait_out(lambda: self._switches.ask(name, owner, probe_for=limit + _REPORT_TIME))
        match answer:
            case Closed():
                if guard.seen_open:
                    self._note_closed(guard)
            case Open(wait):
                self._note_open(guard)
                guard.postponed += 1
                raise CircuitOpen(_spread(wait), f"breaker {guard.breaker.name} is open")
            case Probe():
                self._note_open(guard)
                self._probes.add(owner)
                log.info("breaker %s: this job probes", guard.breaker.name)

    def after_process_message(
        self,
        broker: Broker,
        message: MessageProxy,
        *,
        result: object = None,
        exception: BaseException | None = None,
    ) -> None:
        guard, execution = self._guard_of(broker, message)
        if guard is None or execution is None:
            return
        try:
            wait = self._learn(guard, execution, exception)
        except StoreUnavailable as outage:
            log.warning("breaker %s does not hear of this job: %s", guard.breaker.name, outage)
        else:
            sent_at = message.message_timestamp or time.time() * 1000  # a sender need not say when
            if wait is not None and timedelta(milliseconds=time.time() * 1000 - sent_at) < self._excused_for:
                execution.excused_for = _spread(wait)
        finally:
            self._probes.discard(execution.owner)

    def after_skip_message(self, broker: Broker, message: MessageProxy) -> None:
        execution = execution_of(message)
        if execution is not None and execution.owner in self._probes:
            self.after_process_message(broker, message, exception=SkipMessage())

    def _learn(self, guard: _Guard, execution: Execution, error: BaseException | None) -> timedelta | None:
        """Tell the breaker of a job's end; for how long the job is excused, None if it is not."""
        name, owner, probes = self._name(guard), execution.owner, execution.owner in self._probes
        if error is not None and _trips(guard.breaker, error):
            burst = guard.sample.add(execution.job.id)
            if probes or burst:
                return self._trip(guard, owner, error)
            return self._switches.look(name) if guard.seen_open else None
        if error is None:
            guard.sample.add()
        if probes and _is_silent(error):
            self._switches.give_up_probe(name, owner)
        elif probes and self._switches.close(name, owner):
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

    def _trip(self, guard: _Guard, owner: str, error: BaseException) -> timedelta:
        name, breaker = self._name(guard), guard.breaker
        reason = f"{type(error).__name__}: {text_of(error)}"[:_LONGEST_REASON]
        tripped = self._switches.trip(name, owner, pause=breaker.pause, longest=breaker.longest, reason=reason)
        guard.seen_open = True
        if tripped.anew:
            telemetry.breaker_changed(name, "open")
            why = "its probe has failed" if owner in self._probes else f"{breaker.failures} jobs have failed"
            seconds, kind = tripped.wait.total_seconds(), type(error).__name__
            log.error("breaker %s is open for %.0f s: %s, the last by %s", breaker.name, seconds, why, kind)
        return tripped.wait

    def _guard_of(self, broker: Broker, message: MessageProxy) -> tuple[_Guard | None, Execution | None]:
        if not self._guards or message.actor_name not in broker.actors:
            return None, None
        breaker = broker.get_actor(message.actor_name).options.get("breaker")
        return (self._guards[breaker.name], execution_of(message)) if breaker else (None, None)

    def _name(self, guard: _Guard) -> str:
        return f"{self._scope}/{guard.breaker.name}"

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
