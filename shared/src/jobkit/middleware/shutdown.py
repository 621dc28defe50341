"""SIGTERM: take no more, give back what waits, let what runs finish while there is time."""

import logging
import signal
import threading
import time
from queue import SimpleQueue
from types import FrameType
from typing import Any, Final

from dramatiq import Broker, Worker
from dramatiq.common import iter_queue
from dramatiq.middleware import Middleware
from dramatiq.middleware import Shutdown as ShutdownInterrupt

from jobkit.interrupts import Interrupts

#: Seconds. A consumer may hand on one more message in the moment in which it is told to stop.
_LOOK: Final = 0.05

log = logging.getLogger(__name__)


class Shutdown(Middleware):
    """Hands prefetched messages back at once, and interrupts what still runs at the limit.

    An interrupted job goes back to the queue as it was: no attempt is used up.

    Args:
        stopping: Set first; consumers take no more and nobody waits out an outage any longer.
        interrupts: Reaches the running jobs.
        limit: Seconds that running jobs have.
        own_process: Whether SIGTERM is for this worker. Dramatiq sees the signal up to a second late.
    """

    def __init__(self, stopping: threading.Event, interrupts: Interrupts, limit: float, *, own_process: bool) -> None:
        self._stopping = stopping
        self._interrupts = interrupts
        self._limit = limit
        self._own_process = own_process
        # A signal handler may interrupt any code of its thread, an Event's own among it. This queue is made for that.
        self._asked: SimpleQueue[None] = SimpleQueue()
        self._ended = threading.Event()

    def after_worker_boot(self, broker: Broker, worker: Worker) -> None:
        threading.Thread(target=self._stop, args=(worker,), name="jobkit-shutdown", daemon=True).start()
        if self._own_process:
            self._listen()

    def before_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        self._stopping.set()
        self._asked.put(None)

    def after_worker_shutdown(self, broker: Broker, worker: Any) -> None:  # Any: Dramatiq's Worker, not used
        self._ended.set()

    def _listen(self) -> None:
        dramatiqs = signal.getsignal(signal.SIGTERM)

        def on_term(number: int, frame: FrameType | None) -> None:
            self._asked.put(None)
            if callable(dramatiqs):
                dramatiqs(number, frame)

        signal.signal(signal.SIGTERM, on_term)

    def _stop(self, worker: Worker) -> None:
        self._asked.get()
        self._stopping.set()
        limit_at = time.monotonic() + self._limit
        while not self._ended.wait(_LOOK):
            self._give_back(worker)
            if time.monotonic() >= limit_at:
                self._interrupt()
                limit_at = float("inf")

    def _give_back(self, worker: Worker) -> None:
        for item in iter_queue(worker.work_queue):  # type: ignore[no-untyped-call]  # Dramatiq's own helper
            worker.consumers[item.message.queue_name].requeue_messages([item.message])
            worker.work_queue.task_done()

    def _interrupt(self) -> None:
        number = self._interrupts.interrupt_all(ShutdownInterrupt)
        if number:
            log.warning("handed back %d jobs that were still running after %g s", number, self._limit)
