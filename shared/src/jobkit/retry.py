"""Retry policies: after how long a failed job runs again, and whether it does."""

import inspect
import logging
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from dramatiq.middleware import Interrupt

from jobkit.errors import OUTAGES, PermanentError, leaves

log = logging.getLogger(__name__)

#: Longer waits belong to a schedule.
MAX_DELAY = timedelta(days=7)

#: Which failures are worth another attempt: exception types, or a function that decides.
RetryOn = type[BaseException] | tuple[type[BaseException], ...] | Callable[[BaseException], bool]

#: Seconds to wait after failed attempt n (1, 2, …), which ended with this exception.
Curve = Callable[[int, BaseException], float]


@dataclass(frozen=True)
class RetryPolicy:
    """How often and when a failed job runs again.

    Attributes:
        wait: The wait before cap and jitter.
        attempts: Runs in all, the first included. 1 means that it is never retried.
        cap: The longest wait before jitter, in seconds.
        jitter: Spreads jobs that failed together: 0.2 multiplies each wait by 0.8 to 1.2, after the cap.
        retry_on: Failures that are retried; others are dead-lettered at once. A ``PermanentError`` never is, a time
            limit or an outage of broker or store always.
        longest_wait: Seconds: the most that ``wait`` returns after failed attempt n; None stands for ``cap``.

    Raises:
        TypeError: a value is not of its type, such as ``attempts=2.5`` or ``retry_on=[ValueError]``.
        ValueError: a number is out of range.
    """

    wait: Curve
    attempts: int = 8
    cap: float = 600.0
    jitter: float = 0.2
    retry_on: RetryOn = Exception
    longest_wait: Callable[[int], float] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.attempts, bool) or not isinstance(self.attempts, int):
            raise TypeError(f"attempts={self.attempts!r} must be a whole number")
        if self.attempts < 1:
            raise ValueError(f"attempts={self.attempts} must be 1 or more")
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"jitter={self.jitter} must be between 0 and 1")
        if not 0 <= self.cap <= MAX_DELAY.total_seconds():
            raise ValueError(f"cap={self.cap} must be between 0 and {MAX_DELAY.total_seconds():.0f} seconds")
        if not _takes_attempt_and_exception(self.wait):
            raise TypeError(f"wait={self.wait!r} must be a function of two arguments: the attempt and its exception")
        refuse_unless_it_selects("retry_on", self.retry_on)

    def retries(self, failure: BaseException) -> bool:
        """Whether this failure deserves another attempt at all. A group does if each of its exceptions does."""
        return all(self._retries(leaf) for leaf in leaves(failure))

    def delay(
        self, attempt: int, failure: BaseException | None = None, *, draw: Callable[[], float] = random.random
    ) -> timedelta:
        """The wait after failed attempt number ``attempt``; ``draw`` returns the randomness, from 0 to 1."""
        try:
            wait = float(self.wait(attempt, failure if failure is not None else Exception()))
        except OverflowError:  # an exponential that has left the range of floats is above any cap
            wait = self.cap
        except BaseException:  # a curve is somebody's code: it may raise anything
            log.exception("the retry policy names no wait after attempt %d, so it is the cap", attempt)
            wait = self.cap
        return self._spread(wait, 2 * draw() - 1)

    @property
    def horizon(self) -> timedelta:
        """The longest time from the first failure to the last attempt, running times aside."""
        longest = self.longest_wait or (lambda _attempt: self.cap)
        return sum((self._spread(longest(n), 1.0) for n in range(1, self.attempts)), timedelta())

    def _retries(self, failure: BaseException) -> bool:
        if isinstance(failure, PermanentError):
            return False
        if isinstance(failure, (Interrupt, *OUTAGES)):  # neither is an error of the job's own
            return True
        if isinstance(self.retry_on, type | tuple):
            return isinstance(failure, self.retry_on)
        try:
            return bool(self.retry_on(failure))
        except BaseException:  # a mistake in the policy must neither lose the job nor run it without end
            log.exception("retry_on could not decide, so the job is retried")
            return True

    def _spread(self, wait: float, towards: float) -> timedelta:
        """The wait within its cap, moved by jitter: ``towards`` -1 is the shortest, 1 the longest."""
        wait = self.cap if math.isnan(wait) else wait
        return timedelta(seconds=max(0.0, min(wait, self.cap)) * (1 + self.jitter * towards))


def _takes_attempt_and_exception(wait: object) -> bool:
    if not callable(wait):
        return False
    try:
        inspect.signature(wait).bind(1, Exception())
    except TypeError:
        return False
    except ValueError:  # a function in C that does not tell its arguments
        return True
    return True


def refuse_unless_it_selects(name: str, value: object) -> None:
    """Raise ``TypeError`` unless ``value`` is an exception type, a tuple of them, or a function that decides."""
    kinds = value if isinstance(value, tuple) else (value,)
    types = [kind for kind in kinds if isinstance(kind, type)]
    if (len(types) == len(kinds) and all(issubclass(kind, BaseException) for kind in types)) or (
        callable(value) and not types
    ):
        return
    raise TypeError(f"{name}={value!r} must be an exception type, a tuple of them, or a function that decides")


def exponential(
    base: float = 2,
    *,
    first: float = 1,
    cap: float = 600,
    attempts: int = 8,
    jitter: float = 0.2,
    retry_on: RetryOn = Exception,
) -> RetryPolicy:
    """Waits of ``first``, ``first * base``, ``first * base²`` … seconds, at most ``cap``."""
    return _of_attempt(lambda attempt: first * float(base) ** (attempt - 1), attempts, cap, jitter, retry_on)


def linear(
    step: float, *, cap: float = 600, attempts: int = 8, jitter: float = 0.2, retry_on: RetryOn = Exception
) -> RetryPolicy:
    """Waits of ``step``, ``2 * step``, ``3 * step`` … seconds, at most ``cap``."""
    return _of_attempt(lambda attempt: step * attempt, attempts, cap, jitter, retry_on)


def fixed(wait: float, *, attempts: int = 8, jitter: float = 0.2, retry_on: RetryOn = Exception) -> RetryPolicy:
    """The same wait, in seconds, after each failure."""
    return _of_attempt(lambda _attempt: wait, attempts, wait, jitter, retry_on)


def custom(
    wait: Curve, *, cap: float = 600, attempts: int = 8, jitter: float = 0.2, retry_on: RetryOn = Exception
) -> RetryPolicy:
    """Waits that ``wait(attempt, exception)`` returns in seconds, at most ``cap``; exact with ``jitter=0``.

    The worker takes ``cap`` as the longest wait where it checks that records last longer than retries.
    """
    return RetryPolicy(wait, attempts, cap, jitter, retry_on)


def never() -> RetryPolicy:
    """One attempt: a failure is a dead letter."""
    return _of_attempt(lambda _attempt: 0.0, 1, 600, 0.0, Exception)


def _of_attempt(
    wait: Callable[[int], float], attempts: int, cap: float, jitter: float, retry_on: RetryOn
) -> RetryPolicy:
    def bounded(attempt: int) -> float:
        try:
            return wait(attempt)
        except OverflowError:
            return cap

    return RetryPolicy(lambda attempt, _failure: bounded(attempt), attempts, cap, jitter, retry_on, bounded)
