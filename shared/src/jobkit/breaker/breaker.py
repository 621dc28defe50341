"""When a breaker opens: what counts as a failure, how many make a burst, how long jobs pause."""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from jobkit.errors import PermanentError, TimeLimitExceeded, TransientError
from jobkit.retry import MAX_DELAY, RetryOn, refuse_unless_it_selects

#: What a dependency that is down or overloaded looks like from inside a job.
OUTAGE_LIKE: Final = (TransientError, ConnectionError, TimeoutError, TimeLimitExceeded)


@dataclass(frozen=True)
class CircuitBreaker:
    """Pauses its actors after a burst of failures, lets one job probe after a while, and resumes when that succeeds.

    Actors of a service that share a breaker's name share its state, on all machines: name it after the dependency.

    Attributes:
        name: The dependency (``"smtp"``).
        failures: So many different jobs have to fail in one worker process ...
        within: ... in this time, and be at least half of those that ended, to open the breaker.
        pause: Until the first probe. Twice as long after each probe that fails ...
        longest: ... up to this.
        trips_on: Failures that speak against the dependency, given like a policy's ``retry_on``. Choose them narrowly:
            while the breaker is open, they use up no attempts. A ``PermanentError`` never counts.
    """

    name: str
    failures: int = 5
    within: timedelta = timedelta(seconds=60)
    pause: timedelta = timedelta(seconds=10)
    longest: timedelta = timedelta(minutes=5)
    trips_on: RetryOn = OUTAGE_LIKE

    def __post_init__(self) -> None:
        if not self.name or not self.name.isprintable():
            raise ValueError(f"name={self.name!r} must be a word that names the dependency")
        if isinstance(self.failures, bool) or not isinstance(self.failures, int):
            raise TypeError(f"failures={self.failures!r} must be a whole number")
        refuse_unless_it_selects("trips_on", self.trips_on)
        if self.failures < 1:
            raise ValueError(f"failures={self.failures} must be 1 or more")
        if not timedelta(seconds=1) <= self.pause <= self.longest <= MAX_DELAY:
            raise ValueError(f"pause={self.pause} must be a second or more, and no longer than longest={self.longest}")
        if self.within <= timedelta():
            raise ValueError(f"within={self.within} must be above 0")

    def trips(self, failure: BaseException) -> bool:
        """Whether the failure speaks against the dependency; raises what ``trips_on`` raises."""
        if isinstance(failure, PermanentError):
            return False
        if isinstance(self.trips_on, type | tuple):
            return isinstance(failure, self.trips_on)
        return bool(self.trips_on(failure))


class Sample:
    """How the jobs that ended lately in this process have ended."""

    #: Ends that are kept; at a higher rate than this many in ``within``, the last of them decide.
    SIZE: Final = 1000

    def __init__(self, breaker: CircuitBreaker, clock: Callable[[], float] = time.monotonic) -> None:
        self._breaker = breaker
        self._clock = clock
        self._ends: deque[tuple[float, str]] = deque(maxlen=self.SIZE)  # when, and the job if it failed
        self._lock = threading.Lock()

    def add(self, failed_job: str = "") -> bool:
        """Note that a job succeeded, or failed by its id; True if the failures are a burst by now."""
        with self._lock:
            now = self._clock()
            self._ends.append((now, failed_job))
            while self._ends[0][0] < now - self._breaker.within.total_seconds():
                self._ends.popleft()
            failed = [job for _, job in self._ends if job]
            # Different jobs: one that fails again and again says something about itself.
            return len(set(failed)) >= self._breaker.failures and 2 * len(failed) >= len(self._ends)

    def forget(self) -> None:
        """Forget what was counted."""
        with self._lock:
            self._ends.clear()
