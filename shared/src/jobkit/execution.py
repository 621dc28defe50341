"""What is known about one delivery while it is being processed.

The hooks of the middleware meet here: the lease that was given, what the actor returned, what was decided, and whether
everything that follows from it is durable. Only then is the delivery acked.
"""

import itertools
import os
import secrets
import threading
import time
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import Enum
from typing import Any

from dramatiq import Message
from dramatiq.broker import MessageProxy

from jobkit.deadletters import Reason
from jobkit.store.base import JobKey, Lease

#: How often a message says that it was tried, in case the record of it is lost.
ATTEMPTS_OPTION = "attempts"

#: Set on every copy that is published to run later, so that its trace links instead of nesting.
DEFERRED_OPTION = "deferred"

#: Set on a job that a job has sent: the round of its parent.
ROUND_OPTION = "round"

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
        reason: Why it died.
        settled: True once all that follows is durable, so that the delivery may be acked.
        published: When the copy was published, by the monotonic clock.
        sends: How many jobs it has sent so far; numbers their derived ids.
        revived: Whether it has come back from a dead-letter queue.
        alone: Whether it runs on its last chance, with no other such job beside it.
        excused_for: Its failure is not its own: it runs again after this, without an attempt used up.
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
    reason: Reason | None = None
    settled: bool = False
    revived: bool = False
    alone: bool = False
    excused_for: timedelta | None = None

    @property
    def attempt(self) -> int:
        """Which run this is, from 1; 0 before the lease is given."""
        return self.lease.attempt if self.lease else 0

    @property
    def round(self) -> int:
        """When the job was sent, or the first of the jobs that led to it: a job that died runs again in another round.

        A parent that is retried sends its children once more, and those that have died meanwhile stay dead.
        """
        said = self.message.options.get(ROUND_OPTION)
        return said if isinstance(said, int) else self.message.message_timestamp

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
    kept = {name: v for name, v in message.options.items() if name not in {ATTEMPTS_OPTION, DEFERRED_OPTION}}
    return replace(message, options=kept)


def begin(message: MessageProxy) -> Execution:
    """Take charge of a delivery: from here on it is acked only once its execution is settled."""
    plain: Message[Any] = Message(**{name: getattr(message, name) for name in _FIELDS})
    execution = Execution(plain, JobKey.of(message.queue_name, message.actor_name, message.message_id))
    said = message.__dict__  # by our own broker; the proxy would look for anything else in the message
    execution.revived = said.get("revived", False)
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
