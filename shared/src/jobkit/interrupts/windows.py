"""The windows in which jobs may be interrupted.

CPython can raise an exception in another thread, but only somewhere. If it lands in a hook that runs after the job, the
thread dies or the message is acked unseen. So a job runs inside a window: an interrupt is raised only while the window
is open, at most once, and closing it takes back one that has not landed yet. Calls that must not be cut in half, such
as a send, are shielded: the interrupt waits for their end.
"""

import logging
import math
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Final, TypeVar

from dramatiq.middleware import Interrupt

from jobkit.errors import TimeLimitExceeded
from jobkit.execution import Execution, current
from jobkit.interrupts.asynchronous import AsynchronousRaiser
from jobkit.interrupts.monitored import MonitoredRaiser
from jobkit.interrupts.origin import Origins
from jobkit.interrupts.raiser import Raiser

T = TypeVar("T")

#: Seconds. An interrupt that has not landed by then may land in more places.
PATIENCE: Final = 5.0

#: Seconds that a shielded call takes at most, unless its caller says otherwise: a send that meets several silent nodes.
LONGEST_SHIELD: Final = 120.0

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Window:
    deadline: float
    execution: Execution | None = field(default_factory=current)
    interrupt: type[Interrupt] | None = None
    interrupted_at: float = 0.0
    insisted: bool = False
    shield_ends: float | None = None  # at the latest; None if nothing is shielded
    waiting: bool = False  # for the end of what is shielded

    def overrun(self, now: float) -> float:
        """Seconds since the interrupt should have landed."""
        return now - max(self.interrupted_at, self.shield_ends or 0.0)


@dataclass(frozen=True, slots=True)
class Overrun:
    """A job that has been interrupted and has not ended.

    Attributes:
        thread: The thread that runs it.
        execution: Its delivery; None outside a worker.
        interrupt: Why it was interrupted.
        seconds: How long ago.
    """

    thread: int
    execution: Execution | None
    interrupt: type[Interrupt]
    seconds: float


class Interrupts:
    """The windows of all worker threads of a process, and the clock that watches their time limits.

    Args:
        own: Folders of the jobs' own code. Code outside of installed packages belongs to it anyway.
        raiser: Raises the interrupts; chosen by Python's version unless it is given.
        patience: Seconds until an interrupt that has not landed may land in more places.
    """

    def __init__(self, own: Iterable[str] = (), *, raiser: Raiser | None = None, patience: float = PATIENCE) -> None:
        self._windows: dict[int, _Window] = {}
        # A plain lock and a simple queue, no Condition and no Event: on Python 3.11 an interrupt must not land between
        # the taking of a lock and the block that frees it. The interpreter looks for interrupts in Python code, of
        # which those consist.
        self._lock = threading.Lock()
        self._sooner: SimpleQueue[None] = SimpleQueue()  # something is due earlier than the next look
        self._next_look = math.inf
        self._watch: threading.Thread | None = None
        self._raiser = raiser or _raiser_of_this_python(own)
        self._patience = patience

    def run(self, job: Callable[[], T], *, limit: float) -> T:
        """Run ``job`` in this thread; ``TimeLimitExceeded`` is raised in it after ``limit`` seconds."""
        self._ensure_watched()
        window = _Window(time.monotonic() + limit)
        try:
            with self._lock:
                self._windows[threading.get_ident()] = window
                self._look_by(window.deadline)
            return job()
        finally:
            while True:
                try:
                    self._close()
                    break
                except Interrupt:
                    continue  # it landed here, at the finish: what the job returned or raised stands

    def shielded(self, call: Callable[[], T], *, at_most: float = LONGEST_SHIELD) -> T:
        """Return what ``call`` returns; an interrupt that comes meanwhile is raised after it has returned.

        Args:
            call: Has to end by itself.
            at_most: In seconds. A job that takes longer counts as stuck from then on.
        """
        thread = threading.get_ident()
        with self._lock:
            window = self._windows.get(thread)
            if window is not None and window.interrupt is not None and self._raiser.is_pending(thread):
                self._raiser.take_back(thread)
                raise window.interrupt  # here, where the call has not begun: it could not land inside
            if window is None or window.interrupt is not None or window.shield_ends is not None:
                window = None  # no job, or it has been interrupted, or the shield is up already
            else:
                window.shield_ends = time.monotonic() + at_most
        try:
            return call()
        finally:
            if window is not None:
                with self._lock:
                    window.shield_ends = None
                    waiting = window.waiting
                    if waiting:
                        window.interrupted_at = time.monotonic()  # it lands only now
                if waiting and window.interrupt is not None:
                    raise window.interrupt

    def pending(self) -> bool:
        """Return whether an interrupt waits for the end of what this thread has shielded."""
        window = self._windows.get(threading.get_ident())
        return window is not None and window.waiting

    def interrupt(self, thread: int, interrupt: type[Interrupt]) -> bool:
        """Raise ``interrupt`` in the job that runs in ``thread``; False if none runs or it was interrupted before."""
        with self._lock:
            return self._interrupt(thread, self._windows.get(thread), interrupt)

    def interrupt_all(self, interrupt: type[Interrupt]) -> int:
        """Raise ``interrupt`` in every job that runs; returns how many."""
        with self._lock:
            return sum(self._interrupt(thread, window, interrupt) for thread, window in self._windows.items())

    def overruns(self, seconds: float) -> list[Overrun]:
        """Return the jobs that still run although they were interrupted at least ``seconds`` ago.

        What is shielded has its time first.
        """
        now = time.monotonic()
        with self._lock:
            return [
                Overrun(thread, window.execution, window.interrupt, window.overrun(now))
                for thread, window in self._windows.items()
                if window.interrupt is not None and window.overrun(now) >= seconds
            ]

    def _interrupt(self, thread: int, window: _Window | None, interrupt: type[Interrupt]) -> bool:
        if window is None or window.interrupt is not None:
            return False
        window.interrupt, window.interrupted_at = interrupt, time.monotonic()
        if window.shield_ends is not None:
            window.waiting = True
        else:
            self._raiser.raise_in(thread, interrupt)
            self._look_by(window.interrupted_at + self._patience)
        return True

    def _close(self) -> None:
        thread = threading.get_ident()
        with self._lock:
            window = self._windows.pop(thread, None)
            if window is not None and window.interrupt is not None:
                self._raiser.take_back(thread)

    def _ensure_watched(self) -> None:
        with self._lock:
            if self._watch is None or not self._watch.is_alive():  # threads do not survive a fork
                self._watch = threading.Thread(target=self._watch_windows, name="jobkit-time-limits", daemon=True)
                self._watch.start()

    def _look_by(self, moment: float) -> None:
        if moment < self._next_look:
            self._next_look = moment
            self._sooner.put(None)

    def _watch_windows(self) -> None:
        while True:
            now = time.monotonic()
            with self._lock:
                # That of a job that has ended stands, or each short job would wake this thread to say when it is due.
                self._next_look = self._next_look if self._next_look > now else math.inf
                for thread, window in self._windows.items():
                    try:
                        self._look_at(thread, window, now)
                    except Exception:  # the time limits of all jobs depend on this thread
                        log.exception("a job cannot be interrupted now")
                    self._next_look = min(self._next_look, self._next_step(window))
                timeout = None if self._next_look == math.inf else max(0.0, self._next_look - now)
            with suppress(Empty):
                self._sooner.get(timeout=timeout)

    def _look_at(self, thread: int, window: _Window, now: float) -> None:
        if window.interrupt is None and window.deadline <= now:
            self._interrupt(thread, window, TimeLimitExceeded)
        elif self._next_step(window) <= now:
            window.insisted = True
            self._raiser.insist(thread)

    def _next_step(self, window: _Window) -> float:
        """When this window is looked at next, by the monotonic clock."""
        if window.interrupt is None:
            return window.deadline
        return math.inf if window.insisted or window.shield_ends is not None else window.interrupted_at + self._patience


def _raiser_of_this_python(own: Iterable[str]) -> Raiser:
    monitoring = getattr(sys, "monitoring", None)
    if monitoring is None:  # Python 3.11
        return AsynchronousRaiser()
    return MonitoredRaiser(monitoring, Origins(own), Interrupts.run.__code__)
