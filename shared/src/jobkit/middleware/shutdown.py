"""SIGTERM: take no more, give back what waits, let what runs finish while there is time."""

import logging
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from queue import Empty, SimpleQueue
from typing import Any, Final

from dramatiq import Broker, Worker
from dramatiq.common import iter_queue
from dramatiq.middleware import Middleware
from dramatiq.middleware import Shutdown as ShutdownInterrupt

from jobkit.interrupts import Interrupts
from jobkit.middleware.signals import Word, listen
from jobkit.settings import ServiceSettings

# What happens when, in seconds after the limit:
#   0    what still runs is interrupted; it hands itself back, and the process ends as soon as all have
#   1.5  Dramatiq waits no longer for its threads
#   3.5  what no interrupt has reached is handed back, within a second, as the store may be away
#   4.5  the process ends, come what may
#   5    the orchestrator's SIGKILL

#: Between the interrupt of what still runs and the kill: to hand back, record and flush.
STOP_MARGIN: Final = timedelta(seconds=5)

#: Seconds, as above.
STOP_TIME: Final = 0.3 * STOP_MARGIN.total_seconds()
_END_TIME: Final = 0.7 * STOP_MARGIN.total_seconds()
_LEAVE_TIME: Final = 1.0

#: Seconds. A consumer may hand on one more message in the moment in which it is told to stop.
_LOOK: Final = 0.05

log = logging.getLogger(__name__)


def stop_limit(settings: ServiceSettings) -> float:
    """Seconds from SIGTERM until jobs that still run are interrupted and handed back."""
    longest = settings.stop_grace_seconds - STOP_MARGIN.total_seconds()
    return longest if settings.stop_limit_seconds is None else min(settings.stop_limit_seconds, longest)


class Shutdown(Middleware):
    """Hands prefetched messages back at once, and interrupts what still runs at the limit.

    An interrupted job goes back to the queue as it was: no attempt is used up. A second request to stop brings the
    limit forward to now. Nothing keeps a process of Dramatiq's command for longer than ``STOP_MARGIN`` after the limit.

    Args:
        stopping: Set first; consumers take no more, and nobody waits on behalf of a job that has not begun.
        over: Set at the limit; nobody waits on behalf of a job that has ended, either.
        interrupts: Reaches the running jobs.
        limit: Seconds that running jobs have.
        abandon: Hands back the jobs that no interrupt reaches; the process ends with them.
    """

    def __init__(
        self,
        stopping: threading.Event,
        over: threading.Event,
        interrupts: Interrupts,
        limit: float,
        abandon: Callable[[], None],
    ) -> None:
        self._stopping = stopping
        self._over = over
        self._interrupts = interrupts
        self._limit = limit
        self._abandon = abandon
        # A signal handler may interrupt any code of its thread, an Event's own among it. This queue is made for that.
        self._words: SimpleQueue[Word] = SimpleQueue()
        self._ended = threading.Event()
        self._owns_process = False

    def before_worker_boot(self, broker: Broker, worker: Worker) -> None:
        self._owns_process = listen(self._words.put)
        if self._owns_process:
            threading.Thread(target=self._end_with_parent, name="jobkit-parent", daemon=True).start()
        # Before anything is opened, which may hang.
        threading.Thread(target=self._run, args=(worker,), name="jobkit-shutdown", daemon=True).start()

    def before_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        self._stopping.set()
        self._words.put(Word.STOP)

    def after_worker_shutdown(self, broker: Broker, worker: Any) -> None:  # Any: Dramatiq's Worker, not used
        self._ended.set()
        self._over.set()

    def _run(self, worker: Worker) -> None:
        word = self._words.get()
        self._stopping.set()
        limit_at = time.monotonic() + self._limit
        end_at = limit_at + _END_TIME
        while self._owns_process or not self._ended.is_set():
            try:
                self._give_back(worker)
                if time.monotonic() >= limit_at and not self._over.is_set():
                    self._interrupt()
            except Exception:  # the end of the process depends on this thread
                log.exception("what waits could not be handed back now")
            if self._owns_process and (word is Word.NOW or time.monotonic() >= end_at):
                self._leave(1 if word is Word.NOW else 0)
            with suppress(Empty):
                word = self._words.get(timeout=_LOOK)

    def _give_back(self, worker: Worker) -> None:
        for item in iter_queue(worker.work_queue):  # type: ignore[no-untyped-call]  # Dramatiq's own helper
            worker.consumers[item.message.queue_name].requeue_messages([item.message])
            worker.work_queue.task_done()

    def _interrupt(self) -> None:
        self._over.set()
        number = self._interrupts.interrupt_all(ShutdownInterrupt)
        if number:
            log.warning("interrupted %d jobs that still ran, to be handed back", number)

    def _leave(self, status: int) -> None:
        """End the process, whatever its threads wait for. What is not settled is delivered again."""
        try:
            self._interrupt()
            handing_back = threading.Thread(target=self._abandon, name="jobkit-abandon", daemon=True)
            handing_back.start()
            handing_back.join(_LEAVE_TIME)
        finally:
            kill_children()
            os._exit(status)

    def _end_with_parent(self) -> None:
        """Tell this process to stop when the one that would tell it has died."""
        parent = multiprocessing.parent_process()
        if parent is not None:
            multiprocessing.connection.wait([parent.sentinel])
            if not self._stopping.is_set():
                os.kill(os.getpid(), signal.SIGTERM)


def kill_children() -> None:
    """Kill what jobs have started by ``multiprocessing``: a pool whose owner is gone waits for work for ever."""
    with suppress(Exception):  # the process ends in any case
        for child in multiprocessing.active_children():
            child.kill()
