"""SIGTERM: take no more, give back what waits, let what runs finish while there is time."""

import logging
import multiprocessing
import os
import signal
import threading
import time
from datetime import timedelta
from queue import SimpleQueue
from types import FrameType
from typing import Any, Final

from dramatiq import Broker, Worker
from dramatiq.cli import RET_KILLED, RET_OK
from dramatiq.common import iter_queue
from dramatiq.middleware import Middleware
from dramatiq.middleware import Shutdown as ShutdownInterrupt

from jobkit.interrupts import Interrupts
from jobkit.settings import ServiceSettings

#: Between the interrupt of what still runs and the kill: to hand back, record and flush.
STOP_MARGIN: Final = timedelta(seconds=5)

#: Seconds. A consumer may hand on one more message in the moment in which it is told to stop.
_LOOK: Final = 0.05

log = logging.getLogger(__name__)


def stop_limit(settings: ServiceSettings) -> float:
    """Seconds from SIGTERM until jobs that still run are interrupted and handed back."""
    longest = settings.stop_grace_seconds - STOP_MARGIN.total_seconds()
    return longest if settings.stop_limit_seconds is None else min(settings.stop_limit_seconds, longest)


class Shutdown(Middleware):
    """Hands prefetched messages back at once, and interrupts what still runs at the limit.

    An interrupted job goes back to the queue as it was: no attempt is used up. A second SIGTERM ends the process at
    once, and what is not settled is delivered again.

    Args:
        stopping: Set first; consumers take no more and nobody waits out an outage any longer.
        interrupts: Reaches the running jobs.
        limit: Seconds that running jobs have; the process has ``STOP_MARGIN`` more.
    """

    def __init__(self, stopping: threading.Event, interrupts: Interrupts, limit: float) -> None:
        self._stopping = stopping
        self._interrupts = interrupts
        self._limit = limit
        # A signal handler may interrupt any code of its thread, an Event's own among it. This queue is made for that.
        self._asked: SimpleQueue[None] = SimpleQueue()
        self._ended = threading.Event()
        self._told = False

    def after_worker_boot(self, broker: Broker, worker: Worker) -> None:
        threading.Thread(target=self._stop, args=(worker,), name="jobkit-shutdown", daemon=True).start()
        if _is_worker_process():
            self._listen()

    def before_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        self._stopping.set()
        self._asked.put(None)

    def after_worker_shutdown(self, broker: Broker, worker: Any) -> None:  # Any: Dramatiq's Worker, not used
        self._ended.set()

    def _listen(self) -> None:
        # Dramatiq's own handler sets a flag, which is looked at once a second.
        dramatiqs = signal.getsignal(signal.SIGTERM)

        def on_term(number: int, frame: FrameType | None) -> None:
            if self._told:
                # An exit by the book would wait for threads of the jobs' own, which may wait for anything.
                os._exit(RET_KILLED)
            self._told = True
            self._asked.put(None)
            if callable(dramatiqs):
                dramatiqs(number, frame)

        signal.signal(signal.SIGTERM, on_term)

    def _stop(self, worker: Worker) -> None:
        self._asked.get()
        self._stopping.set()
        limit_at = time.monotonic() + self._limit
        end_at = limit_at + 0.9 * STOP_MARGIN.total_seconds()
        while not self._ended.wait(_LOOK):
            self._give_back(worker)
            if time.monotonic() >= limit_at:
                self._interrupt()
                limit_at = float("inf")
        if _is_worker_process():
            time.sleep(max(0.0, end_at - time.monotonic()))
            os._exit(RET_OK)  # all is handed back, but threads of the jobs' own keep the process from ending

    def _give_back(self, worker: Worker) -> None:
        for item in iter_queue(worker.work_queue):  # type: ignore[no-untyped-call]  # Dramatiq's own helper
            worker.consumers[item.message.queue_name].requeue_messages([item.message])
            worker.work_queue.task_done()

    def _interrupt(self) -> None:
        number = self._interrupts.interrupt_all(ShutdownInterrupt)
        if number:
            log.warning("handed back %d jobs that were still running after %g s", number, self._limit)


def _is_worker_process() -> bool:
    """Whether Dramatiq's command has started this process, so that its signals and its end are the worker's."""
    return multiprocessing.parent_process() is not None
