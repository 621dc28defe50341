"""SIGTERM: take no more, give back what waits, let what runs finish while there is time."""

import logging
import threading
from typing import Any

from dramatiq import Broker, Worker
from dramatiq.common import iter_queue
from dramatiq.middleware import Middleware
from dramatiq.middleware import Shutdown as ShutdownInterrupt

from jobkit.interrupts import Interrupts

log = logging.getLogger(__name__)


class Shutdown(Middleware):
    """Hands prefetched messages back at once, and interrupts what still runs shortly before the process is killed.

    An interrupted job goes back to the queue as it was: no attempt is used up.

    Args:
        stopping: Set first; consumers take no more and nobody waits out an outage any longer.
        interrupts: Reaches the running jobs.
        limit: Seconds that running jobs have.
    """

    def __init__(self, stopping: threading.Event, interrupts: Interrupts, limit: float) -> None:
        self._stopping = stopping
        self._interrupts = interrupts
        self._limit = limit
        self._timer: threading.Timer | None = None

    def before_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        self._stopping.set()
        for item in iter_queue(worker.work_queue):  # type: ignore[no-untyped-call]  # Dramatiq's own helper
            worker.consumers[item.message.queue_name].requeue_messages([item.message])
            worker.work_queue.task_done()
        self._timer = threading.Timer(self._limit, self._interrupt)
        self._timer.daemon = True
        self._timer.start()

    def after_worker_shutdown(self, broker: Broker, worker: Any) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _interrupt(self) -> None:
        number = self._interrupts.interrupt_all(ShutdownInterrupt)
        if number:
            log.warning("handed back %d jobs that were still running after %g s", number, self._limit)
