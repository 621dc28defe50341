"""Dramatiq's work queue with a dispatcher in it: its consumers put deliveries in, its worker threads get them."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from queue import Empty
from typing import Any, Final

from dramatiq.broker import MessageProxy

from jobkit.effects import Claim, Record, Released
from jobkit.errors import StoreUnavailable
from jobkit.execution import Execution
from jobkit.run.dispatcher import LONGEST_AHEAD, Delivery, Dispatcher
from jobkit.run.seams import Seams
from jobkit.store.base import Lease

#: Seconds between two looks at what waits for too long.
_LOOK: Final = LONGEST_AHEAD / 2

log = logging.getLogger(__name__)


class WorkQueue:
    """Has the methods of ``queue.Queue`` that Dramatiq uses.

    Args:
        dispatcher: Decides.
        seams: Asks the store.
        begin: Takes charge of a delivery.
        claim: Says how to ask for its job.
        stopping: Set when the worker takes no more.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        seams: Seams,
        begin: Callable[[MessageProxy], Execution],
        claim: Callable[[Execution], Claim],
        stopping: threading.Event,
    ) -> None:
        self._dispatcher = dispatcher
        self._seams = seams
        self._begin = begin
        self._claim = claim
        self._stopping = stopping
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._all_done = threading.Condition(self._lock)
        self._tidies = threading.Event()
        self._thread: threading.Thread | None = None
        self.unfinished_tasks = 0

    def put(self, item: Any) -> None:  # Any: Dramatiq's own, which is ordered
        """Take in what a consumer has received."""
        delivery = Delivery(item, self._begin(item.message))
        with self._lock:
            self.unfinished_tasks += 1
            self._dispatcher.put(delivery)
            self._work.notify()

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Return what runs next; raises ``queue.Empty`` if nothing comes in time."""
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            with self._lock:
                while not self._dispatcher.has_work or (block and self._stopping.is_set()):
                    left = None if until is None else until - time.monotonic()
                    if not block or (left is not None and left <= 0):
                        raise Empty
                    self._work.wait(left)
                delivery = self._dispatcher.take()
                batch = [] if delivery is not None else self._dispatcher.choose()
                if self._dispatcher.has_work:
                    self._work.notify()  # one wakes the next, as long as there is something
            if delivery is None:
                if self._dispatcher.needs_claim(batch) and block:
                    self._claim_all(batch)
                    continue
                (delivery,) = batch
            return delivery.item

    def get_nowait(self) -> Any:
        """Return something that has not begun, as the worker stops; raises ``queue.Empty``."""
        with self._lock:
            deliveries, leases = self._dispatcher.drain()
            if not deliveries:
                raise Empty
            first, *others = deliveries
            for delivery in others:
                self._dispatcher.put(delivery)
        self._release(leases)
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
        with self._lock:
            return len(self._dispatcher)

    def empty(self) -> bool:
        """Whether none waits."""
        return not self.qsize()

    def note_run(self, actor: str, seconds: float) -> None:
        """Note how long a job of the actor has run."""
        with self._lock:
            self._dispatcher.note_run(actor, seconds)

    def _claim_all(self, batch: Sequence[Delivery]) -> None:
        """Ask for jobs in one call, and take in the answers."""
        try:
            answers = self._seams.claim([self._claim(delivery.execution) for delivery in batch])
        except Exception as error:
            if not isinstance(error, StoreUnavailable):
                log.exception("jobs could not be claimed together, so each is claimed alone")
            with self._lock:
                self._dispatcher.give_up(batch)
            return
        with self._lock:
            released = self._dispatcher.deal(batch, answers)
            if self._dispatcher.has_work:
                self._work.notify()
            tidy = self._dispatcher.has_to_tidy
        self._release(released)
        if tidy and not self._tidies.is_set():
            self._look_after()

    def _release(self, leases: Sequence[Lease]) -> None:
        if not leases:
            return
        try:
            self._seams.record([Record(lease, Released()) for lease in leases])
        except Exception as error:  # their owners get the same leases again, and else they end by time
            log.warning("what was claimed ahead is not released: %s", error)

    def _look_after(self) -> None:
        self._tidies.set()
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="jobkit-claims", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while self._tidies.wait():
            time.sleep(_LOOK)
            try:
                self._tidy()
            except Exception:  # nobody else looks after what waits
                log.exception("what was claimed ahead could not be looked after now")

    def _tidy(self) -> None:
        with self._lock:
            overdue, due = self._dispatcher.overdue(), self._dispatcher.due()
            if not self._dispatcher.has_to_tidy and not due:
                self._tidies.clear()
            if overdue:
                self._work.notify()
        self._release(overdue)
        if due:
            self._claim_all(due)
