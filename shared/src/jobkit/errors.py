"""Every error that jobkit raises or that a handler may raise to say what should happen next."""

from datetime import timedelta

import dramatiq.errors
from dramatiq.middleware import Interrupt

#: The broker-side delays end below it, after 8.5 years.
LONGEST_DELAY = timedelta(seconds=2**28)


class JobkitError(Exception):
    """Base of all errors raised here, apart from interrupts."""


# What a handler may raise ----------------------------------------------------------------------------------------


class PermanentError(JobkitError):
    """The job can never succeed as it is: it is dead-lettered at once, whatever attempts are left."""


class TransientError(JobkitError):
    """The job may succeed later: a name for ``retry_on`` to tell such failures from mistakes in the code."""


class Retry(dramatiq.errors.Retry):
    """Run this job again after ``delay``, without using up an attempt (other systems call it a snooze).

    A ``delay`` is rounded up to whole seconds, the resolution of the broker-side delays.
    """

    def __init__(self, delay: timedelta | float, reason: str = "asked to run later") -> None:
        seconds = delay.total_seconds() if isinstance(delay, timedelta) else float(delay)
        if not 0 <= seconds < LONGEST_DELAY.total_seconds():
            raise ValueError(f"delay={seconds} must be between 0 and {LONGEST_DELAY.total_seconds():.0f} seconds")
        super().__init__(reason, delay=int(seconds * 1000))
        self.after = timedelta(seconds=seconds)


# What stops a running job ----------------------------------------------------------------------------------------


class TimeLimitExceeded(Interrupt):
    """The job ran for longer than its time limit; it counts as a failed attempt."""


class LeaseLost(Interrupt):
    """Another worker holds the job's lease by now, so this run must not go on and its result is not recorded."""


# What makes a message a dead letter before any handler sees it ------------------------------------------------------


class BadPayload(PermanentError):
    """The payload breaks its contract."""


class NewerContract(PermanentError):
    """The message was written under a newer version of the contract than this worker knows."""


class UnknownActor(PermanentError):
    """No actor of that name runs here."""


class Undecodable(PermanentError):
    """The body is not a Dramatiq message."""


class Poison(PermanentError):
    """The job's worker died too often while it ran."""


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


class Unroutable(SendError):
    """No queue of that name exists, and it could not be made."""


class MessageTooLarge(SendError, PermanentError):
    """The message is above the size limit: put the data into object storage and send its reference."""


# Running ---------------------------------------------------------------------------------------------------------


class StoreUnavailable(JobkitError):
    """The job store did not answer, so the job must not run now."""


class TopologyMismatch(JobkitError):
    """A queue or exchange of that name exists with other arguments."""


class SettingsError(JobkitError):
    """A setting is missing, malformed or unsafe; the message has one line for each, with the variable's name."""


#: What passes by itself: it says nothing about the job that met it.
OUTAGES = (StoreUnavailable, BrokerUnavailable, SendRefused)


def text_of(error: BaseException) -> str:
    """The text of any exception, in characters that can be stored and sent.

    Neither one whose own ``__str__`` fails nor one that names a file of another encoding may stand in a job's way.
    """
    try:
        return str(error).encode("utf-8", "backslashreplace").decode("utf-8")
    except Exception:
        return f"<{type(error).__name__} has no text>"
