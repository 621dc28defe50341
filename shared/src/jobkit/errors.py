"""Every error that jobkit raises or that a handler may raise to say what should happen next."""

import math
import traceback
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from itertools import islice

import dramatiq.errors
from dramatiq.middleware import Interrupt

#: The delay ladder has 28 levels, so this is the longest delay that it can hold: 8.5 years.
LONGEST_DELAY = timedelta(seconds=2**28 - 1)


class JobkitError(Exception):
    """Base of all errors raised here, apart from interrupts."""


# What a handler may raise ----------------------------------------------------------------------------------------


class PermanentError(JobkitError):
    """The job can never succeed as it is: it is dead-lettered at once, whatever attempts are left."""


class TransientError(JobkitError):
    """The job may succeed later: a name for ``retry_on`` to tell such failures from mistakes in the code.

    Args:
        args: The text, as for any exception.
        retry_after: Replaces the retry policy's next wait, once: what a ``Retry-After`` header says (RFC 9110, 10.2.3).
            A number is in seconds. ``JOBKIT_LONGEST_RETRY_AFTER_SECONDS`` caps it.
    """

    retry_after: timedelta | None = None

    def __init__(self, *args: object, retry_after: timedelta | float | None = None) -> None:
        super().__init__(*args)
        with suppress(TypeError, ValueError):  # a server may have sent nonsense; that must not replace this error
            self.retry_after = None if retry_after is None else _not_in_the_past(retry_after)


class Retry(dramatiq.errors.Retry):
    """This attempt failed: run the job again after ``delay``, instead of the policy's wait.

    It uses up an attempt, whatever the policy's ``retry_on`` says. When no attempt is left, the job dies.

    Args:
        delay: As for ``Snooze``.
        cause: What went wrong: an exception, which the dead letter then describes, or a text.

    Raises:
        ValueError: as for ``Snooze``.
    """

    def __init__(self, delay: timedelta | float, cause: BaseException | str = "asked for another attempt") -> None:
        self.after = usable_delay(delay)
        text = "" if isinstance(cause, BaseException) else cause
        super().__init__(text, delay=int(self.after.total_seconds() * 1000))
        if isinstance(cause, BaseException):
            self.__cause__ = cause

    def __str__(self) -> str:
        # Asked for when the job has ended: the text of the cause is somebody's code, and an interrupt could land in it.
        return super().__str__() or (text_of(self.__cause__) if self.__cause__ is not None else "")


class Snooze(Retry):
    """Run this job again after ``delay``: a ``Retry`` that uses up no attempt.

    Args:
        delay: A duration, or a number of seconds. It is rounded up to whole seconds, the resolution of the broker-side
            delays. One that has just passed means now.
        reason: Shown in the log and by ``jobkit status``.

    Raises:
        ValueError: the delay is not a number, or is longer than the broker can hold (``LONGEST_DELAY``).
    """

    def __init__(self, delay: timedelta | float, reason: str = "asked to run later") -> None:
        super().__init__(delay, reason)


def usable_delay(delay: timedelta | float) -> timedelta:
    """Return ``delay`` as a duration that the broker can hold; a moment that has just passed is now.

    Raises:
        ValueError: it is not a number, or too long.
    """
    after = _not_in_the_past(delay)
    if after > LONGEST_DELAY:
        raise ValueError(f"delay={delay} is above {LONGEST_DELAY.total_seconds():.0f} seconds, the longest delay")
    return after


def _not_in_the_past(delay: timedelta | float) -> timedelta:
    seconds = delay.total_seconds() if isinstance(delay, timedelta) else float(delay)
    if math.isnan(seconds):
        raise ValueError(f"delay={delay} is not a number of seconds")
    return timedelta(seconds=min(max(0.0, seconds), timedelta.max.total_seconds() // 2))


# What stops a running job ----------------------------------------------------------------------------------------


class TimeLimitExceeded(Interrupt):
    """The job ran for longer than its time limit; it counts as a failed attempt."""


class LeaseLost(Interrupt):
    """Another worker holds the job's lease by now, so this run must not go on and its result is not recorded."""


# What makes a message a dead letter before any handler sees it ------------------------------------------------------


class BadPayload(PermanentError):
    """The payload breaks its contract."""


class NewerContract(PermanentError):
    """The message was sent under a newer version of the contract than this worker has. It waits for a newer worker."""


class UnknownActor(PermanentError):
    """No actor of that name runs here. The message waits for a worker that has it."""


class NothingRan(PermanentError):
    """The actor returned a coroutine or an iterator: the work in it has not been done."""


#: Bytes of a result. Larger ones belong into object storage, with their key as the result.
MAX_RESULT = 262_144


class ResultNotKept(PermanentError):
    """The actor has done its work and returned what the job's record cannot keep."""


class Undecodable(PermanentError):
    """The body is not a Dramatiq message."""


class Poison(PermanentError):
    """The job's worker died too often while it ran."""


class DeliveredTooOften(PermanentError):
    """The message came back to its queue again and again, and never got to an end."""


# What keeps a database effect from happening exactly once -------------------------------------------------------


class NotOneTransaction(PermanentError):
    """Mark and effect are not in one transaction, so they cannot commit together."""


# Sending ---------------------------------------------------------------------------------------------------------


class SendError(JobkitError):
    """The broker did not confirm the message. It may still have arrived: send it again under the same id or key."""


class BrokerUnavailable(SendError):
    """No broker confirmed the message in time."""


class SendRefused(SendError):
    """The broker answered that it does not take the message."""


class AccessRefused(SendRefused):
    """The broker's user may not write to where the message goes. Give it the permission: jobs wait meanwhile."""


class Unroutable(SendError):
    """No queue of that name exists, and it could not be made."""


class MessageTooLarge(SendError, PermanentError):
    """The message is above the size limit: split the job, or put the data into object storage and send its key."""

    @classmethod
    def of(cls, actor: str, job_id: str, size: int, limit: int) -> "MessageTooLarge":
        """The error of a job whose message has ``size`` bytes."""
        return cls(
            f"{actor} {job_id} is {size:,} bytes long, the limit is {limit:,} (JOBKIT_MAX_MESSAGE_BYTES): split the "
            "job, or put the data into object storage and send its key"
        )


# Running ---------------------------------------------------------------------------------------------------------


class StoreUnavailable(JobkitError):
    """The job store did not answer, so the job must not run now."""


class StoreFull(StoreUnavailable):
    """The job store has no memory left. Running jobs are recorded all the same, and new ones wait."""


class StoreRefused(StoreUnavailable):
    """The job store refuses us, for a password, a permission or what it is: jobs wait until a person has mended it."""


class RecordUnreadable(JobkitError):
    """The store holds something else under the key of one job's record, which concerns that job alone."""


class TopologyMismatch(JobkitError):
    """A queue or exchange of that name exists with other arguments."""


class DeclarationRefused(TopologyMismatch):
    """A queue or exchange does not exist, and the user may not make it."""


class SettingsError(JobkitError):
    """A setting is missing, malformed or unsafe; the message has one line for each, with the variable's name."""


#: Outages. They do not count against the job that met them.
OUTAGES = (StoreUnavailable, BrokerUnavailable, SendRefused)

#: Characters of an exception's text that are kept. Longer ones are cut: a driver may quote a whole statement.
LONGEST_TEXT = 2_000


#: The same of a traceback.
LONGEST_TRACEBACK = 16_000

#: Exceptions of a group whose tracebacks are written one by one, if the group as a whole cannot be.
_MOST_LEAVES = 5


def text_of(error: BaseException) -> str:
    """Return the text of any exception, in characters that can be stored and sent, cut to ``LONGEST_TEXT``.

    Neither one whose own ``__str__`` fails nor one that names a file of another encoding may stand in a job's way.
    """
    try:
        text = str(error)
        kept = text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}… ({len(text):,} characters)"
        return kept.encode("utf-8", "backslashreplace").decode("utf-8")
    except BaseException:  # a __str__ may raise anything, SystemExit too
        return f"<{type(error).__name__} has no text>"


def traceback_of(error: BaseException) -> str:
    """Return the end of any exception's traceback as text, without the parts of its message that ``text_of`` cuts."""
    try:
        text = "".join(traceback.format_exception(error))
        if len(text) > LONGEST_TEXT:
            text = text.replace(str(error), text_of(error))
    except BaseException:  # groups nested too deep, for one
        parts = (
            f"{''.join(traceback.format_tb(e.__traceback__))}{type(e).__name__}: {text_of(e)}\n" for e in leaves(error)
        )
        text = "".join(islice(parts, _MOST_LEAVES))
    return text[-LONGEST_TRACEBACK:].encode("utf-8", "backslashreplace").decode("utf-8")


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield the exceptions in a group, at any depth and in their order; of any other exception, itself."""
    waiting = [error]
    while waiting:  # no recursion: groups may be nested deeper than the stack allows
        one = waiting.pop()
        if isinstance(one, BaseExceptionGroup):
            waiting.extend(reversed(one.exceptions))
        else:
            yield one
