"""What an observer is, and what it is told."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from jobkit.actor_function import refuse_what_does_not_run
from jobkit.contracts.job import Job
from jobkit.contracts.tick import Tick


class Event(StrEnum):
    """What observers are told of. Each event is also the name of a method of ``Observer``."""

    STARTED = "started"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    RETRIED = "retried"
    EXHAUSTED = "exhausted"
    DIED = "died"
    STALLED = "stalled"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Run:
    """The run of a job that an event is about: what its ``Context`` says, without what only the job itself may use.

    Attributes:
        service: The service.
        queue: Where its message came from.
        actor: What runs it.
        job_id: The same on every run of the job.
        attempt: Which run this is, from 1; 0 if no worker could read the message.
        fence: Higher on every run.
        crashes: Runs whose workers died, since the job's last checkpoint.
        sent_at: When the job was sent, by its sender's clock; None if that is not known.
        tick: The due time of a periodic job; None for a job that somebody has sent.
    """

    service: str
    queue: str
    actor: str
    job_id: str
    attempt: int = 0
    fence: int = 0
    crashes: int = 0
    sent_at: datetime | None = None
    tick: Tick | None = None


@dataclass(frozen=True, slots=True)
class Observation:
    """One event.

    Attributes:
        event: What happened.
        outcome: What became of the run: ``started``, ``completed``, ``retried``, ``died`` or ``stalled``. For an error,
            where it is: ``broker``, ``store`` or ``topology``.
        at: When it happened, by the worker's clock.
        job: The job, or its payload if it breaks the contract or has not been read. None for an error, and for a
            message that no worker could read.
        context: The run; None for an error.
        exception: What the run failed with, or the error. That of a run has no ``__traceback__``, whose frames would
            keep all that the job had in memory.
        traceback: The end of the traceback as text; empty if nothing failed.
        reason: Why the job died, as its dead letter says: ``permanent``, ``attempts_exhausted``, ``poison``, …
        delay: After how long it runs again, if it is retried.
    """

    event: Event
    outcome: str
    at: datetime
    job: Job | Mapping[str, Any] | None = None
    context: Run | None = None
    exception: BaseException | None = None
    traceback: str = ""
    reason: str = ""
    delay: timedelta | None = None


class Observer:
    """Base of all observers. Override the methods for what you want to be told of.

    >>> class Chat(Observer):                                                  # doctest: +SKIP
    ...     def died(self, observation: Observation, /) -> None:
    ...         self.post(f"{observation.context.actor} died: {observation.exception}")

    The methods run on one thread of the worker process, one after the other, after what they tell of has been recorded.
    They may raise: that is logged, and harms no job. They are told at most once.
    """

    def started(self, observation: Observation, /) -> None:
        """A worker has the job's lease, and its function is about to be called."""

    def succeeded(self, observation: Observation, /) -> None:
        """The job is done."""

    def failed(self, observation: Observation, /) -> None:
        """A run failed. ``retried``, or ``exhausted`` and ``died``, follow."""

    def retried(self, observation: Observation, /) -> None:
        """The job runs again after ``delay``, as a run failed and attempts are left."""

    def exhausted(self, observation: Observation, /) -> None:
        """The last attempt failed. ``died`` follows."""

    def died(self, observation: Observation, /) -> None:
        """The job cannot succeed: it is a dead letter, or was dropped by an actor without dead letters."""

    def stalled(self, observation: Observation, /) -> None:
        """The lease of a run ended without an end of the run: its worker died. ``context`` is the run that follows."""

    def error(self, observation: Observation, /) -> None:
        """The broker or the store is away or refuses the worker, or a queue is not what the worker expects."""


def checked_observer(observer: object) -> Observer:
    """Return ``observer`` if it can be told of something.

    Raises:
        TypeError: It is no observer, has no method that is named after an event, or one that would not run.
    """
    if isinstance(observer, type):
        raise TypeError(f"observers=[{observer.__name__}] has a class: make one, {observer.__name__}()")
    if not isinstance(observer, Observer):
        raise TypeError(
            f"observers=[{observer!r}] must be objects of classes that derive from jobkit.observers.Observer"
        )
    events = [event for event in Event if observes(observer, event)]
    if not events:
        raise TypeError(f"{type(observer).__name__} observes nothing: define one of {', '.join(Event)}")
    for event in events:
        refuse_what_does_not_run(f"{type(observer).__name__}.{event}", getattr(observer, event))
    return observer


def observes(observer: Observer, event: Event) -> bool:
    """Return whether the observer has a method of its own for the event."""
    method = getattr(observer, event)
    return getattr(method, "__func__", method) is not getattr(Observer, event)
