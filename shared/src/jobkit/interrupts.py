"""Interrupting a running job from another thread, and nothing but the job.

CPython can raise an exception in another thread, but only somewhere. If it lands in a hook that runs after the job, the
thread dies or the message is acked unseen. So a job runs inside a window: an interrupt is raised only while the window
is open, at most once, and closing it takes back one that has not landed yet.
"""

import ctypes
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


class Interrupts:
    """The windows of all worker threads of a process, and the clock that watches their time limits."""

    def __init__(self) -> None:
        self._windows: dict[int, _Window] = {}
        # A plain lock and a simple queue, no Condition and no Event: an interrupt must not land between the taking of a
        # lock and the block that frees it. The interpreter looks for interrupts in Python code, of which those consist.
        self._lock = threading.Lock()
        self._opened: SimpleQueue[None] = SimpleQueue()
        self._watch: threading.Thread | None = None

    def run(self, job: Callable[[], T], *, limit: float) -> T:
        """Run ``job`` in this thread; ``TimeLimitExceeded`` is raised in it after ``limit`` seconds."""
        self._ensure_watched()
        try:
            with self._lock:
                self._windows[threading.get_ident()] = _Window(time.monotonic() + limit)
            self._opened.put(None)
            return job()
        finally:
            self._close()

    def interrupt(self, thread: int, interrupt: type[Interrupt]) -> bool:
        """Raise ``interrupt`` in the job that runs in ``thread``; False if none runs or it was interrupted before."""
        with self._lock:
            window = self._windows.get(thread)
            if window is None or window.interrupted:
                return False
            window.interrupted = True
            _raise_in(thread, interrupt)
            return True

    def interrupt_all(self, interrupt: type[Interrupt]) -> int:
        """Raise ``interrupt`` in every job that runs; returns how many."""
        with self._lock:
            threads = list(self._windows)
        return sum(self.interrupt(thread, interrupt) for thread in threads)

    def _close(self) -> None:
        thread = threading.get_ident()
        while True:
            try:
                with self._lock:
                    window = self._windows.pop(thread, None)
                    if window is not None and window.interrupted:
                        _raise_in(thread, None)
            except Interrupt:
                continue  # it landed here, at the finish: what the job returned or raised stands
            return

    def _ensure_watched(self) -> None:
        with self._lock:
            if self._watch is None or not self._watch.is_alive():  # threads do not survive a fork
                self._watch = threading.Thread(target=self._watch_deadlines, name="jobkit-time-limits", daemon=True)
                self._watch.start()

    def _watch_deadlines(self) -> None:
        while True:
            with suppress(Empty):
                while True:
                    self._opened.get_nowait()
            with self._lock:
                pending = {thread: w.deadline for thread, w in self._windows.items() if not w.interrupted}
            now = time.monotonic()
            for thread in [thread for thread, deadline in pending.items() if deadline <= now]:
                self._interrupt_if_late(thread)
                del pending[thread]
            with suppress(Empty):
                self._opened.get(timeout=min((deadline - now for deadline in pending.values()), default=None))

    def _interrupt_if_late(self, thread: int) -> None:
        with self._lock:
            window = self._windows.get(thread)
            if window is None or window.interrupted or window.deadline > time.monotonic():
                return  # the job has ended meanwhile, and perhaps the next one has begun
            window.interrupted = True
            _raise_in(thread, TimeLimitExceeded)


def _raise_in(thread: int, interrupt: type[Interrupt] | None) -> None:
    """Let ``thread`` raise when it next runs Python code; None takes back what has not been raised yet."""
    exception = ctypes.py_object(interrupt) if interrupt is not None else None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), exception)
