"""Waiting out an outage of the store or the broker, while the job and its lease are held."""

import logging
import random
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any, Final, TypeVar

from jobkit.effects import Call, Effect, Pause, Seam, Steps, take
from jobkit.errors import OUTAGES, AccessRefused, JobkitError, StoreRefused
from jobkit.refusals import WRITING, Refusals

T = TypeVar("T")

#: What refuses us, as ``Refusals`` names it.
_SOURCES: Final[dict[type[JobkitError], str]] = {AccessRefused: WRITING, StoreRefused: "the records of jobs"}

log = logging.getLogger(__name__)


class WorkerStopping(JobkitError):
    """The worker is told to stop while it waits, so the job goes back to the queue as it is."""


class Patience:
    """Tries again, with growing and random pauses, until it works or the worker stops.

    Args:
        stopping: The worker takes no more: ends the waiting on behalf of jobs that have not begun.
        over: The jobs have had their time: ends the waiting on behalf of those that have ended.
        first: Seconds before the second try.
        longest: Seconds between later ones.
        refusals: Told when the broker or the store refuses our user.
        tell: Called with each outage, as often as it is met.
    """

    def __init__(
        self,
        stopping: threading.Event,
        over: threading.Event,
        *,
        first: float = 0.1,
        longest: float = 2.0,
        refusals: Refusals | None = None,
        tell: Callable[[BaseException], None] = lambda _outage: None,
    ) -> None:
        self._stopping = stopping
        self._over = over
        self._first = first
        self._longest = longest
        self._announced = ""
        self._refusals = refusals
        self.tell = tell
        self._refused: Counter[str] = Counter()  # how many wait because of a refusal, by its source
        self._lock = threading.Lock()

    def before(self, make: Callable[[], Effect], first: Callable[[], Steps[None]] | None = None) -> Steps[Any]:
        """The answer to an effect, once no outage stands in its way: what a job needs before it begins.

        Args:
            make: The effect, made for each try. Any: its answer.
            first: Steps that are taken before each try, and may meet the outage too.

        Raises:
            WorkerStopping: the worker stops before that.
        """
        return self._wait_out(make, self._stopping, first=first)

    def after(self, make: Callable[[], Effect]) -> Steps[Any]:
        """The same for what a job has done: given up, the job would run again.

        Raises:
            WorkerStopping: the worker stops, and the time that running jobs have is over.
        """
        return self._wait_out(make, self._over)

    def see_through(self, operation: Callable[[], T], *, unless: Callable[[], bool] = lambda: False) -> T:
        """Return what ``operation`` returns, as ``after`` does, here and now.

        Raises:
            WorkerStopping: as there; or ``unless`` says so.
        """
        make = lambda: Call(Seam.BROKER, "send", operation)  # noqa: E731  a name for one line
        return take(self._wait_out(make, self._over, unless), perform)

    @property
    def is_stopping(self) -> bool:
        """Whether the worker stops."""
        return self._stopping.is_set()

    def refuse_when_stopping(self) -> None:
        """Raise ``WorkerStopping`` if the worker stops: what has not begun should not begin now."""
        if self._stopping.is_set():
            raise WorkerStopping("the worker stops")

    def rest(self, seconds: float = 1.0) -> Pause:
        """The effect of waiting so long, or until the worker stops."""
        return Pause(seconds, self._stopping)

    def _wait_out(
        self,
        make: Callable[[], Effect],
        given_up: threading.Event,
        unless: Callable[[], bool] = lambda: False,
        first: Callable[[], Steps[None]] | None = None,
    ) -> Steps[T]:
        pause, met = self._first, set[str]()  # the refusals that it waits for
        try:
            while True:
                try:
                    if first is not None:
                        yield from first()
                    result: T = yield make()
                except OUTAGES as outage:
                    self._announce(outage, met)
                    jitter = random.uniform(0.5, 1.0)  # noqa: S311  no secret
                    if (yield Pause(pause * jitter, given_up)) or unless():
                        raise WorkerStopping(str(outage)) from outage
                    pause = min(pause * 2, self._longest)
                else:
                    if self._announced:
                        self._announced = ""
                        log.info("answers again; jobs go on")
                    return result
        finally:
            if met and not given_up.is_set():  # a worker that stops does not know whether it is let in again
                self._leave(met)

    def _announce(self, outage: JobkitError, met: set[str]) -> None:
        self.tell(outage)
        # Every thread that holds a job comes by here: one line for each kind of outage is enough.
        kind, source = type(outage).__name__, _SOURCES.get(type(outage))
        if self._refusals is not None and source is not None:
            self._enter(source, met)
            self._refusals.report(source, outage)  # which logs it, and fails the health check after a while
        elif self._refusals is not None and self._refusals.knows(outage):
            pass  # a refused login, which the connection has reported
        elif self._announced != kind:
            self._announced = kind
            level = logging.WARNING if source is None else logging.ERROR
            log.log(level, "%s; jobs wait for it", outage)

    def _enter(self, source: str, met: set[str]) -> None:
        if source not in met:
            met.add(source)
            with self._lock:
                self._refused[source] += 1

    def _leave(self, met: set[str]) -> None:
        """Note that one job less waits for these; the last one to leave ends the refusal."""
        for source in met:
            with self._lock:
                self._refused[source] -= 1
                last = self._refused[source] == 0
            if last and self._refusals is not None:
                self._refusals.clear(source)


def perform(effect: Effect) -> object:
    """Carry out a call or a pause in this thread."""
    match effect:
        case Call(do=do):
            return do()
        case Pause(seconds, unless):
            return unless.wait(seconds)
    raise AssertionError(f"{effect} is not for a thread that waits")
