"""What is known about one delivery while it is being processed.

The steps of its path meet here: the lease that was given, what the actor returned, and what became of the delivery. It
is acked only once all that follows is durable.
"""

import threading
import time
from collections.abc import Callable, Mapping
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, Final

from dramatiq import Message
from dramatiq.broker import MessageProxy

from jobkit.contracts.job import Job
from jobkit.deadletters import Reason
from jobkit.errors import text_of
from jobkit.rounds import ROUND_OPTION, said_round
from jobkit.store.base import Answer, JobKey, Lease
from jobkit.time import milliseconds

#: Attempts so far, carried in the message in case the job record is lost.
ATTEMPTS_OPTION = "attempts"

#: Marks a copy that is published to run later. Its trace is linked to the sender's and not nested in it.
DEFERRED_OPTION = "deferred"

#: Seconds that the job has waited because of outages that it met itself, without an attempt used up.
EXCUSED_OPTION = "excused"

#: Seconds that the message has waited for a worker with its contract or its actor.
REFUSED_OPTION = "refused"

#: 1 on a job that has waited for its last chance.
SUSPECTED_OPTION = "suspected"

#: When a delayed job may begin first, in milliseconds since the epoch by its sender's clock; and its delay in
#: milliseconds, which limits how long the worker waits for that moment.
DUE_OPTION = "due_at"
DELAY_OPTION = "delay"

#: Set on a job that a job has sent: the moment of its parent, or when its parent first sent it under this key. Version
#: 0.1 gave it its name.
MOMENT_OPTION = "round"

#: The options that a copy has and the message that was sent has not.
_HISTORY = frozenset({ATTEMPTS_OPTION, DEFERRED_OPTION, EXCUSED_OPTION, REFUSED_OPTION, SUSPECTED_OPTION})

#: More than this in a message is nonsense.
_MOST_ATTEMPTS = 10_000


class Verdict(Enum):
    """How a run ended."""

    COMPLETED = "completed"
    RETRIED = "retried"  #: failed; a copy will run after a wait
    SNOOZED = "snoozed"  #: runs later; no attempt was used up
    DIED = "died"  #: dead-lettered
    DEFERRED = "deferred"  #: did not run: the job is held elsewhere or is not due
    ANSWERED = "answered"  #: did not run: the job had been done before
    HANDED_BACK = "handed_back"  #: back to the queue, as it was


@dataclass(frozen=True)
class Decision:
    """What becomes of a delivery.

    Attributes:
        verdict: How its run ended, or why there was none.
        delay: When the job runs again.
        reason: Why it is dead.
        error: What the run ended with.
        shown: The failure that decided, of all those in a group.
        options: What the copy that runs again says of its past.
        stumbled: Whether it goes back because of a mistake that nobody foresaw. That counts towards the queue's
            delivery limit.
    """

    verdict: Verdict
    delay: timedelta = timedelta()
    reason: Reason | None = None
    error: BaseException | None = None
    shown: BaseException | None = None
    options: Mapping[str, object] = field(default_factory=dict)
    stumbled: bool = False

    @property
    def is_final(self) -> bool:
        """Whether all that follows is durable, so that the delivery may be acked."""
        return self.verdict is not Verdict.HANDED_BACK

    @property
    def waits_for(self) -> str:
        """Why the job waits, for people; empty where it does not, or waits for its next attempt."""
        return text_of(self.shown) if self.verdict is Verdict.SNOOZED and self.shown is not None else ""

    @property
    def failure(self) -> str:
        """What the run failed with, for people."""
        shown = self.shown or self.error
        return f"{type(shown).__name__}: {text_of(shown)}"[:500] if shown else ""


@dataclass(slots=True)
class Execution:
    """One delivery of one job.

    Attributes:
        message: As it was delivered; the defaults of a periodic job are added.
        job: Whose record it is.
        owner: The name under which it asks for the lease.
        thread: The thread that processes it.
        redelivered: Whether the broker has delivered it before, perhaps to a worker that has died since.
        is_stale: Tells whether the connection that delivered it is gone. The broker then delivers it again.
        breaker: The breaker of its actor, ``<service>/<name>``, which its claim looks at; empty if it has none.
        instead_of: Its owner before, whose lease is given up, because its job was not to begin yet.
        answer: What it was answered when its job was claimed ahead.
        unheard: Whether it was claimed ahead, and the answer lost: it may hold the lease.
        lease: The lease, once it is given.
        alone: Whether it runs on its last chance, with no other such job beside it.
        probes: Whether it finds out if its breaker may close.
        sends: How many jobs it has sent so far; numbers their derived ids.
        at_checkpoint: Whether its work so far is kept: it is the first attempt since then.
        result: What the actor returned, encoded for the record.
        ended: What became of it; None until then.
        payload: The job in the message, once it is read.
        keeps_dead_letter: Whether its actor wants a dead letter of what cannot succeed.
        context: In which its path is walked, and its job runs.
        stall_told: Whether observers were told that the run before this one has stalled.
    """

    message: Message[Any]
    job: JobKey
    owner: str
    thread: int = field(default_factory=threading.get_ident)
    redelivered: bool = False
    is_stale: Callable[[], bool] = lambda: False
    breaker: str = ""
    instead_of: str = ""
    answer: Answer | None = None
    unheard: bool = False
    lease: Lease | None = None
    alone: bool = False
    probes: bool = False
    sends: int = 0
    at_checkpoint: bool = False
    result: bytes = b""
    ended: Decision | None = None
    payload: Job | None = None
    keeps_dead_letter: bool = True
    stall_told: bool = False
    context: Context = field(default_factory=copy_context, repr=False)

    def begin_under(self, lease: Lease) -> None:
        """Take the lease. What follows from this run is in the highest round that the job has run in."""
        self.lease = lease
        self.message = in_round(self.message, self.round)

    @property
    def was_dropped(self) -> bool:
        """Whether it is dead, and there is no dead letter."""
        died = self.ended is not None and self.ended.verdict is Verdict.DIED and self.ended.shown is not None
        return died and not self.keeps_dead_letter

    @property
    def attempt(self) -> int:
        """Which run this is, from 1, since the last checkpoint; 0 before the lease is given."""
        if self.lease is None:
            return 0
        return 1 if self.at_checkpoint else self.lease.attempt

    @property
    def moment(self) -> int:
        """When the job was sent, or the first of the jobs that led to it: one that died runs again if it is sent later.

        A parent that is retried sends its children once more, and those that have died meanwhile stay dead. A job that
        was sent under a key of its own has a moment of its own, one for each job that sends it.
        """
        said = self.message.options.get(MOMENT_OPTION)
        return said if isinstance(said, int) else self.message.message_timestamp

    @property
    def round(self) -> int:
        """How often this send, or that of the first job that led to it, was sent again as a dead letter.

        With the lease, it is the highest that the job has run in: a dead letter of this run is in none below it.
        """
        said = said_round(self.message.options)
        return max(said, self.lease.round_of(self.moment)) if self.lease is not None else said

    @property
    def sent_at(self) -> datetime:
        """When the message was sent first, by its sender's clock."""
        return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=self.message.message_timestamp)

    @property
    def attempts_before(self) -> int:
        """Attempts that the message itself knows of, should the record have been lost."""
        said = self.message.options.get(ATTEMPTS_OPTION, 0)
        return said if isinstance(said, int) and 0 <= said < _MOST_ATTEMPTS else 0

    @property
    def due(self) -> tuple[int, timedelta]:
        """When a delayed job may begin first, by its sender's clock, and its delay; 0 and 0 if it was not delayed."""
        due_at, delay = (self.message.options.get(name) for name in (DUE_OPTION, DELAY_OPTION))
        if not isinstance(due_at, int) or not isinstance(delay, int):
            return 0, timedelta()
        return due_at, timedelta(milliseconds=delay)


_UNTIL_ITS_END: Final = Decision(Verdict.HANDED_BACK, stumbled=True)
_NOT_OURS: Final = Decision(Verdict.ANSWERED)
_BEING_RECORDED: Final = object()

_current: ContextVar[Execution | None] = ContextVar("jobkit_execution", default=None)


def without_history(message: Message[Any]) -> Message[Any]:
    """The message as it was sent, before it was retried: sent again, it has all its attempts."""
    return replace(message, options={name: v for name, v in message.options.items() if name not in _HISTORY})


def in_round(message: Message[Any], number: int) -> Message[Any]:
    """Return the message as one of this round."""
    return replace(message, options={**message.options, ROUND_OPTION: number}) if number else message


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


def received(message: MessageProxy, owner: str, breaker: str = "") -> Execution:
    """Return what is known of a delivery that has arrived, and keep it with the message."""
    plain = message._message
    execution = Execution(plain, JobKey.of(plain.queue_name, plain.actor_name, plain.message_id), owner)
    execution.breaker = breaker
    said = message.__dict__  # by our own broker; the proxy would look for anything else in the message
    execution.redelivered = said.get("redelivered", False)
    execution.is_stale = said.get("is_stale", execution.is_stale)
    said["execution"] = execution
    return execution


def begin(message: MessageProxy, new_owner: Callable[[], str]) -> Execution:
    """Take charge of a delivery in this thread: from here on it is acked only if what becomes of it says so."""
    execution: Execution | None = message.__dict__.get("execution")
    if execution is None:
        execution = received(message, new_owner())
    execution.thread = threading.get_ident()
    settle(message, _UNTIL_ITS_END)
    _current.set(execution)
    return execution


def settle(message: MessageProxy, decision: Decision) -> None:
    """Say what becomes of a delivery."""
    message.__dict__["decision"] = decision


def postpone(message: MessageProxy) -> None:
    """Say that it is settled later, by itself: what becomes of the delivery is being recorded."""
    message.__dict__["decision"] = _BEING_RECORDED


def settled(message: MessageProxy) -> Decision | None:
    """Return what becomes of a delivery; None while that is being recorded.

    One that nobody has taken charge of is Dramatiq's own affair.
    """
    decision = message.__dict__.get("decision", _NOT_OURS)
    return decision if isinstance(decision, Decision) else None


def current() -> Execution | None:
    """The execution of this thread's delivery."""
    return _current.get()


def end() -> None:
    """Forget this thread's delivery."""
    _current.set(None)
