"""The last step of jobs' paths, taken together: what has gathered is recorded in one call, and settled after that.

Whoever brings an end while nobody records does so at once, and goes on with what others bring meanwhile. So a job that
ends alone waits for nobody, and many that end together share one call, one acknowledgement and one write of the log.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from jobkit.effects import Effect, Pause, Performs, Record, Records, Steps, take
from jobkit.errors import OUTAGES

log = logging.getLogger(__name__)

#: Ends that are recorded in one call.
LARGEST_GROUP = 64


class Way(Protocol):
    """A job's path that has come to its record; ``jobkit.effects.Walk`` in a worker."""

    effect: Effect | None

    def step(self, answer: object = None, error: BaseException | None = None) -> Effect | None:
        """Go on to the next effect, with what the last one was answered; None once the path has ended."""


@dataclass(frozen=True, slots=True)
class End:
    """A job that is to be recorded.

    Attributes:
        way: Its path.
        settle: Called once that has ended.
    """

    way: Way
    settle: Callable[[], None]


def commit(ends: Sequence[End]) -> Steps[None]:
    """Record a group in one call, and take each path to its end. One waits out an outage for all of them."""
    group = list(ends)
    while group:
        try:
            answers: Sequence[object] = yield Records([end.way.effect for end in group])  # type: ignore[misc]
        except GeneratorExit:
            raise
        except BaseException as error:  # whatever it is, each path decides what it means
            if not isinstance(error, OUTAGES) and len(group) > 1:  # whoever is to blame, it is one of them
                for end in group:
                    yield from commit([end])
                return
            first, *others = group
            group = yield from _follow(first, None, error)
            for end in others:  # they hear of it too: how long a retry still has to wait is said anew
                group += yield from _follow(end, None, error, waits=False)
        else:
            again: list[End] = []
            for end, answer in zip(group, answers, strict=True):
                failure = answer if isinstance(answer, BaseException) else None
                again += yield from _follow(end, answer, failure)
            group = again


def _follow(end: End, answer: object, error: BaseException | None, *, waits: bool = True) -> Steps[list[End]]:
    """Take one path on: to its end, or to another record of it. Its pauses are skipped if another has waited."""
    while True:
        try:
            effect = end.way.step(answer, error)
        except BaseException:  # the others of the group outlive whatever it is
            log.exception("a job's path has broken off, the job goes back to the queue")
            effect = None
        if effect is None:
            _settle(end)
            return []
        if isinstance(effect, Record):
            return [end]
        if isinstance(effect, Pause) and not waits:
            answer, error = effect.unless.is_set(), None
            continue
        try:
            answer, error = (yield effect), None
        except GeneratorExit:
            raise
        except BaseException as failure:
            answer, error = None, failure


def _settle(end: End) -> None:
    try:
        end.settle()
    except Exception:  # the broker delivers it again, once the connection has ended
        log.exception("a delivery could not be settled")


#: Gathers what is logged while it lasts; it gives the function that writes it earlier.
Together = Callable[[], AbstractContextManager[Callable[[], object]]]


def singly() -> AbstractContextManager[Callable[[], object]]:
    """Gather nothing."""
    return nullcontext(lambda: None)


class Recorder:
    """Gathers ends, and records them.

    Args:
        perform: Carries effects out.
        most: How many may wait. Whoever brings one more waits with it.
        together: Surrounds a group, whose log lines are written at its exit, or when what it gives is called.
        waits: Called before a group is recorded, as the thread waits for that.
    """

    def __init__(
        self,
        perform: Performs,
        most: int = 16,
        together: Together = singly,
        waits: Callable[[], object] = lambda: None,
    ) -> None:
        self.most = most
        self._perform = perform
        self._together = together
        self._waits = waits
        self._ends: deque[End] = deque()
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._is_led = False

    def add(self, end: End) -> None:
        """Record an end now, or leave it to whoever records already."""
        with self._lock:
            while self._is_led and len(self._ends) >= self.most:
                self._room.wait(1.0)
            self._ends.append(end)
            if self._is_led:
                return
            self._is_led = True
        self._lead()

    def _lead(self) -> None:
        group: list[End] = []
        try:
            while group := self._next():
                try:
                    with self._together() as write:
                        take(commit(group), partial(self._carry_out, write))
                except Exception:  # those that others have brought meanwhile are recorded by nobody else
                    log.exception("jobs could not be recorded together; what is not settled is delivered again")
        finally:
            if group:  # this thread was torn out
                with self._lock:
                    self._is_led = False

    def _carry_out(self, write: Callable[[], object], effect: Effect) -> object:
        self._waits()
        if not isinstance(effect, Records):  # it may last
            write()
        return self._perform(effect)

    def _next(self) -> list[End]:
        with self._lock:
            group = [self._ends.popleft() for _ in range(min(len(self._ends), LARGEST_GROUP))]
            self._is_led = bool(group)
            self._room.notify_all()
            return group
