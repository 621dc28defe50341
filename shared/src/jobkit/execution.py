"""What is known about one delivery while it is being processed.

The hooks of the middleware meet here: the lease that was given, what the actor returned, what was decided, and whether
everything that follows from it is durable. Only then is the delivery acked.
"""

import itertools
import os
import secrets
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any

from dramatiq import Message
from dramatiq.broker import MessageProxy

from jobkit.contracts.job import Job
from jobkit.deadletters import Reason
from jobkit.store.base import JobKey, Lease
from jobkit.time import milliseconds

#: Attempts so far, carried in the message in case the job record is lost.
ATTEMPTS_OPTION = "attempts"

#: Marks a copy that is published to run later. Its trace is linked to the sender's and not nested in it.
DEFERRED_OPTION = "deferred"

#: Seconds that the job has waited because of outages that it met itself, without an attempt used up.
EXCUSED_OPTION = "excused"

#: Seconds that the message has waited for a worker with its contract or its actor.
REFUSED_OPTION = "refused"

#: When a delayed job may begin first, in milliseconds since the epoch by its sender's clock; and its delay in
#: milliseconds, which limits how long the worker waits for that moment.
DUE_OPTION = "due_at"
DELAY_OPTION = "delay"

#: Set on a job that a job has sent: the round of its parent, or when its parent first sent it under this key.
ROUND_OPTION = "round"

#: The options that a copy has and the message that was sent has not.
_HISTORY = frozenset({ATTEMPTS_OPTION, DEFERRED_OPTION, EXCUSED_OPTION, REFUSED_OPTION})

#: Owners differ between machines by the first part, between forks by the second, within a process by the third.
_PROCESS = secrets.token_hex(6)
_numbers = itertools.count()


class Verdict(Enum):
    """How a run ended."""

    COMPLETED = "completed"
    RETRIED = "retried"  #: failed; a copy will run after a wait
    SNOOZED = "snoozed"  #: asked to run later; no attempt was used up
    DIED = "died"  #: dead-lettered
    DEFERRED = "deferred"  #: did not run: the job is held elsewhere or is not due
    ANSWERED = "answered"  #: did not run: the job had been done before
    HANDED_BACK = "handed_back"  #: back to the queue, as it was


@dataclass(slots=True)
class Execution:
    """One delivery of one job.

    Attributes:
        message: As it was delivered.
        job: Whose record it is.
        owner: The name under which it asks for the lease.
        lease: The lease, once it is given.
        thread: The thread that processes it.
        result: What the actor returned, encoded for the record.
        verdict: What was decided; None until then.
        delay: After how long the copy runs that follows from the verdict.
        error: What the run ended with.
        shown: The failure that decided, of all those in an exception group.
        reason: Why it died.
        waits_for: Why it waits without an attempt used up, for people.
        settled: True once all that follows is durable, so that the delivery may be acked.
        published: When the copy was published, by the monotonic clock.
        sends: How many jobs it has sent so far; numbers their derived ids.
        revived: Whether it has come back from a dead-letter queue.
        alone: Whether it runs on its last chance, with no other such job beside it.
        stumbled: Whether it is returned because of a mistake that nobody foresaw. That counts towards the queue's
            delivery limit.
        is_stale: Tells whether the connection that delivered it is gone. The broker then delivers it again.
        excused_for: Its failure is not its own: it runs again after this, without an attempt used up.
        at_checkpoint: Whether its work so far is kept: it is the first attempt since then.
        payload: The job in the message, once it is read.
        dropped: Whether it died without a dead letter, as its actor says.
        stall_told: Whether observers were told that the run before this one has stalled.
    """

    message: Message[Any]
    job: JobKey
    owner: str = field(default_factory=lambda: f"{_PROCESS}-{os.getpid()}-{next(_numbers)}")
    lease: Lease | None = None
    thread: int = field(default_factory=threading.get_ident)
    published: float = field(default_factory=time.monotonic)
    sends: int = 0
    result: bytes = b""
    verdict: Verdict | None = None
    delay: timedelta = timedelta()
    error: BaseException | None = None
    shown: BaseException | None = None
    reason: Reason | None = None
    waits_for: str = ""
    settled: bool = False
    revived: bool = False
    alone: bool = False
    stumbled: bool = False
    is_stale: Callable[[], bool] = lambda: False
    excused_for: timedelta | None = None
    at_checkpoint: bool = False
    payload: Job | None = None
    dropped: bool = False
    stall_told: bool = False

    @property
    def attempt(self) -> int:
        """Which run this is, from 1, since the last checkpoint; 0 before the lease is given."""
        if self.lease is None:
            return 0
        return 1 if self.at_checkpoint else self.lease.attempt

    @property
    def round(self) -> int:
        """When the job was sent, or the first of the jobs that led to it: a job that died runs again in another round.

        A parent that is retried sends its children once more, and those that have died meanwhile stay dead. A job that
        was sent under a key of its own begins a round, once for each job that sends it.
        """
        said = self.message.options.get(ROUND_OPTION)
        return said if isinstance(said, int) else self.message.message_timestamp

    @property
    def sent_at(self) -> datetime:
        """When the message was sent first, by its sender's clock."""
        return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=self.message.message_timestamp)

    @property
    def due(self) -> tuple[int, timedelta]:
        """When a delayed job may begin first, by its sender's clock, and its delay; 0 and 0 if it was not delayed."""
        due_at, delay = (self.message.options.get(name) for name in (DUE_OPTION, DELAY_OPTION))
        if not isinstance(due_at, int) or not isinstance(delay, int):
            return 0, timedelta()
        return due_at, timedelta(milliseconds=delay)

    def due_in(self) -> timedelta:
        """What is left of the delay: the copy was published a while ago if the store had to be waited for."""
        return max(timedelta(), self.delay - timedelta(seconds=time.monotonic() - self.published))

    def settle(self, verdict: Verdict) -> None:
        """Say that everything that follows from ``verdict`` is durable."""
        self.verdict = verdict
        self.settled = True


_current: ContextVar[Execution | None] = ContextVar("jobkit_execution", default=None)


def without_history(message: Message[Any]) -> Message[Any]:
    """The message as it was sent, before it was retried: sent again, it has all its attempts."""
    return replace(message, options={name: v for name, v in message.options.items() if name not in _HISTORY})


def for_later(message: Message[Any], **more: object) -> Message[Any]:
    """Return the copy that is published to run later, with what it says of its past."""
    return message.copy(options={DEFERRED_OPTION: True, **more})


def after_a_run(message: Message[Any], **more: object) -> Message[Any]:
    """Return the same for a job that has run: its sender's delay is over."""
    options = {name: v for name, v in message.options.items() if name not in {DUE_OPTION, DELAY_OPTION}}
    return for_later(replace(message, options=options), **more)


def note_delay(message: Message[Any], delay: timedelta) -> None:
    """Let a message that is about to be sent say when it is due. The broker may deliver it too early."""
    if delay > timedelta() and DEFERRED_OPTION not in message.options:
        due_at = int((time.time() + delay.total_seconds()) * 1000)
        message.options.update({DUE_OPTION: due_at, DELAY_OPTION: milliseconds(delay)})


def was_delayed(message: Message[Any]) -> bool:
    """Whether the message was sent to run later, or is a copy that is."""
    return DEFERRED_OPTION in message.options or DELAY_OPTION in message.options


def begin(message: MessageProxy) -> Execution:
    """Take charge of a delivery: from here on it is acked only once its execution is settled."""
    plain: Message[Any] = Message(**{name: getattr(message, name) for name in _FIELDS})
    execution = Execution(plain, JobKey.of(message.queue_name, message.actor_name, message.message_id))
    said = message.__dict__  # by our own broker; the proxy would look for anything else in the message
    execution.revived = said.get("revived", False)
    execution.is_stale = said.get("is_stale", execution.is_stale)
    said["execution"] = execution
    _current.set(execution)
    return execution


def execution_of(message: MessageProxy) -> Execution | None:
    """The execution of a delivery; None if no middleware of ours has taken charge of it."""
    execution = message.__dict__.get("execution")
    return execution if isinstance(execution, Execution) else None


def current() -> Execution | None:
    """The execution of this thread's delivery."""
    return _current.get()


def end() -> None:
    """Forget this thread's delivery."""
    _current.set(None)


_FIELDS = ("queue_name", "actor_name", "args", "kwargs", "options", "message_id", "message_timestamp")
