"""Observers are told what became of jobs, once that is recorded."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from dramatiq import Broker
from dramatiq.middleware import Middleware

from jobkit.broker.rabbitmq import JobBroker
from jobkit.contracts.job import service_of
from jobkit.contracts.tick import Tick
from jobkit.deadletters import Failure, Reason
from jobkit.errors import Poison, StoreUnavailable, TopologyMismatch, traceback_of
from jobkit.execution import Decision, Execution, Verdict
from jobkit.observers.delivery import Delivery
from jobkit.observers.observer import Event, Observation, Observer, Run, observes

#: Seconds that a worker which ends gives its observers.
FLUSH_TIMEOUT: Final = 2.0

#: Seconds. An error that is met again within this time counts as the same one, which was told before.
SAME_ERROR: Final = 60.0

_Observers = Mapping[Event, Sequence[Observer]]


class Observing(Middleware):
    """Tells observers of jobs and errors.

    It watches each job's path, whose end is after its record. It is a middleware for the worker's start and end alone.

    Args:
        service: Are told of all jobs of the service, and of errors.
        actors: Are told of the jobs of one actor, by its name.

    Attributes:
        is_used: Whether there is anybody to tell.
    """

    def __init__(self, service: Sequence[Observer], actors: Mapping[str, Sequence[Observer]]) -> None:
        self._of_service = _by_event(service)
        self._of_actor = {name: _by_event([*service, *own]) for name, own in actors.items()}
        self.is_used = bool(service) or any(actors.values())
        self._delivery = Delivery()
        self._errors: dict[tuple[str, str], float] = {}  # when each was met last, by the monotonic clock

    def before_worker_boot(self, broker: Broker, worker: Any) -> None:  # Any: Dramatiq's Worker, not used
        self._delivery.start()
        if isinstance(broker, JobBroker):
            broker.death_hooks.append(self._died_unseen)
            broker.error_hooks.append(self.error)

    def watch(self, execution: Execution) -> Iterator[None]:
        """Tell, at the exit, what became of a job. Enter it first: it takes the tracebacks off exceptions."""
        try:
            yield
        finally:
            if execution.lease is not None and execution.ended is not None:
                self._tell_of_stall(execution)
                self._tell_of_end(execution, execution.ended)

    def after_worker_shutdown(self, broker: Broker, worker: Any) -> None:  # Any: Dramatiq's Worker, not used
        self._delivery.stop(FLUSH_TIMEOUT)

    def started(self, execution: Execution) -> None:
        """Tell that the function of a job's actor is about to be called."""
        self._tell_of_stall(execution)
        if observers := self._who(execution.job.actor, Event.STARTED):
            self._delivery.tell(observers, _about(execution, Event.STARTED, "started"))

    def error(self, error: BaseException) -> None:
        """Tell that the broker or the store is away, or refuses us; call it as often as that is met."""
        observers = self._of_service[Event.ERROR]
        if not observers:
            return
        where = _place_of(error)
        kind, now = (where, type(error).__name__), time.monotonic()
        last, self._errors[kind] = self._errors.get(kind), now
        if last is None or now - last > SAME_ERROR:
            told = Observation(Event.ERROR, where, _now(), exception=error, traceback=traceback_of(error))
            self._delivery.tell(observers, told)

    def _tell_of_stall(self, execution: Execution) -> None:
        if execution.lease is None or not execution.lease.stalled or execution.stall_told:
            return
        execution.stall_told = True
        if observers := self._who(execution.job.actor, Event.STALLED):
            self._delivery.tell(observers, _about(execution, Event.STALLED, "stalled"))

    def _tell_of_end(self, execution: Execution, ended: Decision) -> None:
        events = [(event, self._who(execution.job.actor, event)) for event in _events_of(ended)]
        if not any(observers for _, observers in events):
            return
        about = _about(execution, Event.SUCCEEDED, ended.verdict.value)
        if ended.error is not None:
            about = replace(about, exception=ended.shown or ended.error, traceback=traceback_of(ended.error))
            for error in (ended.error, ended.shown):
                _forget_frames(error)
        if ended.verdict is Verdict.DIED:
            about = replace(about, reason=str(ended.reason or ""))
        if ended.verdict is Verdict.RETRIED:
            about = replace(about, delay=ended.delay)
        for event, observers in events:
            if observers:
                self._delivery.tell(observers, replace(about, event=event))

    def _died_unseen(self, error: BaseException, failure: Failure, actor: str, job_id: str) -> None:
        """Tell of a message that is a dead letter, though no actor has seen it."""
        run = Run(service_of(failure.queue), failure.queue, actor, job_id)
        told = Observation(
            Event.DIED, "died", _now(), None, run, error, traceback=failure.traceback, reason=failure.reason
        )
        if observers := self._who(actor, Event.DIED):
            self._delivery.tell(observers, told)

    def _who(self, actor: str, event: Event) -> Sequence[Observer]:
        return self._of_actor.get(actor, self._of_service)[event]


def _by_event(observers: Sequence[Observer]) -> _Observers:
    return {event: [one for one in observers if observes(one, event)] for event in Event}


def _events_of(ended: Decision) -> Iterator[Event]:
    if ended.verdict is Verdict.COMPLETED:
        yield Event.SUCCEEDED
    elif ended.verdict is Verdict.RETRIED:
        yield from (Event.FAILED, Event.RETRIED)
    elif ended.verdict is Verdict.DIED:
        if not isinstance(ended.error, Poison):  # a poison job was not run again
            yield Event.FAILED
        if ended.reason is Reason.EXHAUSTED:
            yield Event.EXHAUSTED
        yield Event.DIED


def _about(execution: Execution, event: Event, outcome: str) -> Observation:
    lease, message = execution.lease, execution.message
    run = Run(
        execution.job.service,
        message.queue_name,
        execution.job.actor,
        execution.job.id,
        attempt=execution.attempt,
        fence=lease.fence if lease is not None else 0,
        crashes=lease.crashes if lease is not None else 0,
        sent_at=execution.sent_at,
        tick=Tick.of(message.options),
    )
    job = message.kwargs if execution.payload is None else execution.payload
    return Observation(event, outcome, _now(), job, run)


def _place_of(error: BaseException) -> str:
    if isinstance(error, StoreUnavailable):
        return "store"
    return "topology" if isinstance(error, TopologyMismatch) else "broker"


def _forget_frames(error: BaseException | None) -> None:
    """Take the traceback off an exception, and off those that it came from: frames keep all that the job had."""
    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        with suppress(Exception):  # the class is somebody's, and may refuse that it is changed
            one.__traceback__ = None
        waiting += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions


def _now() -> datetime:
    return datetime.now(UTC)
