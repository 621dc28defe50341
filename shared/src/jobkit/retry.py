"""Retry policies: after how long a failed job runs again, and whether it does."""

import logging
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from dramatiq.middleware import Interrupt

from jobkit.errors import OUTAGES, PermanentError

log = logging.getLogger(__name__)

#: Longer waits belong to a schedule.
MAX_DELAY = timedelta(days=7)

#: Which failures are worth another attempt: exception types, or a function that decides.
RetryOn = type[BaseException] | tuple[type[BaseException], ...] | Callable[[BaseException], bool]


@dataclass(frozen=True)
class RetryPolicy:
    """How often and when a failed job runs again.

    Attributes:
        wait: Seconds to wait after failed attempt n (1, 2, …), before cap and jitter.
        attempts: Runs in all, the first included. 1 means that it is never retried.
        cap: The longest wait, in seconds.
        jitter: The part of each wait that is random: 0.5 draws it evenly from 50 % to 100 %. It keeps the
            jobs that failed together from coming back together.
        retry_on: Failures that are retried; others are dead-lettered at once. A ``PermanentError`` never is, a time
            limit or an outage of broker or store always.
    """

    wait: Callable[[int], float]
    attempts: int = 8
    cap: float = 600.0
    jitter: float = 0.5
    retry_on: RetryOn = Exception

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts={self.attempts} must be 1 or more")
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter={self.jitter} must be between 0 and 1")
        if not 0 <= self.cap <= MAX_DELAY.total_seconds():
            raise ValueError(f"cap={self.cap} must be between 0 and {MAX_DELAY.total_seconds():.0f} seconds")

    def retries(self, failure: BaseException) -> bool:
        """Whether this failure deserves another attempt at all."""
        if isinstance(failure, PermanentError):
            return False
        if isinstance(failure, (Interrupt, *OUTAGES)):  # neither is an error of the job's own
            return True
        if isinstance(self.retry_on, type | tuple):
            return isinstance(failure, self.retry_on)
        try:
            return bool(self.retry_on(failure))
        except Exception:  # a mistake in the policy must neither lose the job nor run it without end
            log.exception("retry_on could not decide, so the job is retried")
            return True

    def delay(self, attempt: int, *, draw: Callable[[], float] = random.random) -> timedelta:
        """The wait after failed attempt number ``attempt``; ``draw`` returns the randomness, from 0 to 1."""
        try:
            wait = float(self.wait(attempt))
        except OverflowError:  # an exponential that has left the range of floats is above any cap
            wait = self.cap
        except Exception:
            log.exception("the retry policy names no wait after attempt %d, so it is the cap", attempt)
            wait = self.cap
        wait = self.cap if math.isnan(wait) else wait
        longest = max(0.0, min(wait, self.cap))
        return timedelta(seconds=longest * (1 - self.jitter * draw()))

    @property
    def horizon(self) -> timedelta:
        """The longest time from the first failure to the last attempt, running times aside."""
        return sum((self.delay(n, draw=lambda: 0.0) for n in range(1, self.attempts)), timedelta())


def exponential(
    base: float = 2,
    *,
    first: float = 1,
    cap: float = 600,
    attempts: int = 8,
    jitter: float = 0.5,
    retry_on: RetryOn = Exception,
) -> RetryPolicy:
    """Waits of ``first``, ``first * base``, ``first * base²`` … seconds, at most ``cap``."""
    return RetryPolicy(lambda attempt: first * base ** (attempt - 1), attempts, cap, jitter, retry_on)


def linear(
    step: float, *, cap: float = 600, attempts: int = 8, jitter: float = 0.5, retry_on: RetryOn = Exception
) -> RetryPolicy:
    """Waits of ``step``, ``2 * step``, ``3 * step`` … seconds, at most ``cap``."""
    return RetryPolicy(lambda attempt: step * attempt, attempts, cap, jitter, retry_on)


def fixed(wait: float, *, attempts: int = 8, jitter: float = 0.5, retry_on: RetryOn = Exception) -> RetryPolicy:
    """The same wait, in seconds, after each failure."""
    return RetryPolicy(lambda _attempt: wait, attempts, wait, jitter, retry_on)


def custom(
    wait: Callable[[int], float],
    *,
    cap: float = 600,
    attempts: int = 8,
    jitter: float = 0.0,
    retry_on: RetryOn = Exception,
) -> RetryPolicy:
    """Waits that ``wait(attempt)`` returns in seconds, at most ``cap``; exact unless ``jitter`` is given."""
    return RetryPolicy(wait, attempts, cap, jitter, retry_on)


def never() -> RetryPolicy:
    """One attempt: a failure is a dead letter."""
    return RetryPolicy(lambda _attempt: 0.0, attempts=1)
