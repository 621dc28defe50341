"""Interrupting a running job from another thread, and nothing but the job.

CPython can raise an exception in another thread, but only somewhere. If it lands in a hook that runs after the job, the
thread dies or the message is acked unseen. So a job runs inside a window: an interrupt is raised only while the window
is open, at most once, and closing it takes back one that has not landed yet. Calls that must not be cut in half, such
as a send, are shielded: the interrupt waits for their end.
"""

import ctypes
import math
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TypeVar

from dramatiq.middleware import Interrupt

from jobkit.errors import TimeLimitExceeded

T = TypeVar("T")


@dataclass(slots=True)
class _Window:
    deadline: float
    interrupted: bool = False
    shielded: bool = False
    waiting: type[Interrupt] | None = None


class Interrupts:
    """The windows of all worker threads of a process, and the clock that watches their time limits."""

    def __init__(self) -> None:
        self._windows: dict[int, _Window] = {}
        # A plain lock and a simple queue, no Condition and no Event: an interrupt must not land between the taking of a
        # lock and the block that frees it. The interpreter looks for interrupts in Python code, of which those consist.
        self._lock = threading.Lock()
        self._sooner: SimpleQueue[None] = SimpleQueue()  # a deadline has come that is earlier than the next look
        self._next_look = math.inf
        self._watch: threading.Thread | None = None

    def run(self, job: Callable[[], T], *, limit: float) -> T:
        """Run ``job`` in this thread; ``TimeLimitExceeded`` is raised in it after ``limit`` seconds."""
        self._ensure_watched()
        deadline = time.monotonic() + limit
        try:
            with self._lock:
                self._windows[threading.get_ident()] = _Window(deadline)
                wake = deadline < self._next_look
            if wake:
                self._sooner.put(None)
            return job()
        finally:
            while True:
                try:
                    self._close()
                    break
                except Interrupt:
                    continue  # it landed here, at the finish: what the job returned or raised stands

    def shielded(self, call: Callable[[], T]) -> T:
        """What ``call`` returns; an interrupt that comes meanwhile is raised when it has returned."""
        with self._lock:
            window = self._windows.get(threading.get_ident())
            if window is None or window.interrupted or window.shielded:
                window = None  # no job, or its interrupt is on its way, or the shield is up already
            else:
                window.shielded = True
        try:
            return call()
        finally:
            if window is not None:
                with self._lock:
                    window.shielded = False
                    waiting = window.waiting
                if waiting is not None:
                    raise waiting

    def pending(self) -> bool:
        """Whether an interrupt waits for the end of what this thread has shielded."""
        window = self._windows.get(threading.get_ident())
        return window is not None and window.waiting is not None

    def interrupt(self, thread: int, interrupt: type[Interrupt]) -> bool:
        """Raise ``interrupt`` in the job that runs in ``thread``; False if none runs or it was interrupted before."""
        with self._lock:
            return self._interrupt(thread, self._windows.get(thread), interrupt)

    def interrupt_all(self, interrupt: type[Interrupt]) -> int:
        """Raise ``interrupt`` in every job that runs; returns how many."""
        with self._lock:
            return sum(self._interrupt(thread, window, interrupt) for thread, window in self._windows.items())

    def _interrupt(self, thread: int, window: _Window | None, interrupt: type[Interrupt]) -> bool:
        if window is None or window.interrupted:
            return False
        window.interrupted = True
        if window.shielded:
            window.waiting = interrupt
        else:
            _raise_in(thread, interrupt)
        return True

    def _close(self) -> None:
        thread = threading.get_ident()
        with self._lock:
            window = self._windows.pop(thread, None)
            if window is not None and window.interrupted:
                _raise_in(thread, None)

    def _ensure_watched(self) -> None:
        with self._lock:
            if self._watch is None or not self._watch.is_alive():  # threads do not survive a fork
                self._watch = threading.Thread(target=self._watch_deadlines, name="jobkit-time-limits", daemon=True)
                self._watch.start()

    def _watch_deadlines(self) -> None:
        while True:
            now = time.monotonic()
            with self._lock:
                for thread, window in self._windows.items():
                    if window.deadline <= now:
                        self._interrupt(thread, window, TimeLimitExceeded)
                deadlines = [w.deadline for w in self._windows.values() if not w.interrupted]
                self._next_look = min(deadlines, default=math.inf)
            with suppress(Empty):
                self._sooner.get(timeout=self._next_look - now if deadlines else None)


def _raise_in(thread: int, interrupt: type[Interrupt] | None) -> None:
    """Let ``thread`` raise when it next runs Python code; None takes back what has not been raised yet."""
    exception = ctypes.py_object(interrupt) if interrupt is not None else None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), exception)
