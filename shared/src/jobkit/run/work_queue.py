"""Dramatiq's work queue with a dispatcher in it: its consumers put deliveries in, its worker threads get them."""

import logging
import threading
import time
from collections.abc import Callable
from queue import Empty
from typing import Any, Final

from dramatiq.broker import MessageProxy

from jobkit.effects import Steps, take
from jobkit.execution import Execution
from jobkit.run.dispatcher import LONGEST_AHEAD, Delivery, Dispatcher, Request, claim, drain, tidy
from jobkit.run.seams import Seams

#: Seconds between two looks at what waits for too long.
_LOOK: Final = LONGEST_AHEAD / 2

log = logging.getLogger(__name__)


class WorkQueue:
    """Has the methods of ``queue.Queue`` that Dramatiq uses.

    Args:
        dispatcher: Decides.
        seams: Asks the store.
        begin: Takes charge of a delivery.
        request: Says how to ask for its job.
        stopping: Set when the worker takes no more.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        seams: Seams,
        begin: Callable[[MessageProxy], Execution],
        request: Request,
        stopping: threading.Event,
    ) -> None:
        self._dispatcher = dispatcher
        self._seams = seams
        self._begin = begin
        self._request = request
        self._stopping = stopping
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._all_done = threading.Condition(self._lock)
        self._tidies = threading.Event()
        self._thread: threading.Thread | None = None
        self._back_soon = set[int]()  # threads with a job that is known to wait for nothing
        self.unfinished_tasks = 0

    def put(self, item: Any) -> None:  # Any: Dramatiq's own, which is ordered
        """Take in what a consumer has received."""
        delivery = Delivery(item, self._begin(item.message))
        with self._lock:  # in one step: a thread that is quick may have it done before it is counted
            self.unfinished_tasks += 1
            self._dispatcher.put(delivery)
        self._wake()

    def get(self, timeout: float | None = None) -> Any:
        """Return what runs next; raises ``queue.Empty`` if nothing comes in time."""
        until = None if timeout is None else time.monotonic() + timeout
        self._back_soon.discard(threading.get_ident())
        while True:
            with self._lock:
                while not self._dispatcher.has_work or self._stopping.is_set():
                    left = None if until is None else until - time.monotonic()
                    if left is not None and left <= 0:
                        raise Empty
                    self._work.wait(left)
            delivery = self._dispatcher.take()
            batch = [delivery] if delivery is not None else self._dispatcher.choose()
            if self._dispatcher.has_work:
                self._wake()  # one wakes the next, as long as there is something
            if delivery is None and batch and self._dispatcher.needs_claim(batch):
                self._do(claim(self._dispatcher, batch, self._request))
            elif batch:
                if self._dispatcher.knows_as_instant(batch[0]):
                    self._back_soon.add(threading.get_ident())
                return batch[0].item

    def get_nowait(self) -> Any:
        """Return something that has not begun, as the worker stops; raises ``queue.Empty``."""
        deliveries = take(drain(self._dispatcher), self._seams)
        if not deliveries:
            self._tidies.set()  # so that its thread ends
            raise Empty
        first, *others = deliveries
        for delivery in others:
            self._dispatcher.put(delivery)
        return first.item

    def task_done(self) -> None:
        """Note that one of those that were got has been processed."""
        with self._lock:
            self.unfinished_tasks -= 1
            if not self.unfinished_tasks:
                self._all_done.notify_all()

    def join(self) -> None:
        """Return once all that was put has been processed."""
        with self._lock:
            while self.unfinished_tasks:
                self._all_done.wait()

    def qsize(self) -> int:
        """Return how many wait."""
        return len(self._dispatcher)

    def note_run(self, actor: str, seconds: float) -> None:
        """Note how long a job of the actor has run."""
        self._dispatcher.note_run(actor, seconds)

    def _wake(self) -> None:
        """Wake a thread, unless one is at work that will be back in no time: each further one only takes turns with it.

        Should it not come back, others are woken by the next look.
        """
        if self._back_soon and self._dispatcher.is_instant:
            self._look_soon()
            return
        with self._lock:
            self._work.notify()

    def _look_soon(self) -> None:
        if not self._tidies.is_set():
            self._tidies.set()
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="jobkit-claims", daemon=True)
                self._thread.start()

    def _do(self, steps: Steps[None]) -> None:
        """Take steps of the dispatcher, and see to what they leave."""
        take(steps, self._seams)
        if self._dispatcher.has_work:
            self._wake()
        if self._dispatcher.has_to_tidy:
            self._look_soon()

    def _run(self) -> None:
        while not self._stopping.is_set() or self._dispatcher.has_to_tidy:  # a worker in a host leaves no thread
            self._tidies.wait()
            time.sleep(_LOOK)
            self._tidies.clear()
            try:
                self._do(tidy(self._dispatcher, self._request))
                if self._dispatcher.has_work:
                    with self._lock:
                        self._work.notify()
                    self._tidies.set()
            except Exception:  # nobody else looks after what waits
                log.exception("what was claimed ahead could not be looked after now")
                self._tidies.set()
